"""Making the ``.venv`` of a checkout with the standard library alone: nothing else is there yet."""
