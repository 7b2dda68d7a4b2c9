"""Trackers such as TensorBoard and W&B, written from the folded log of a run."""
