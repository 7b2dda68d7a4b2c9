"""Messages about a run to people: what is due, and sending it once."""
