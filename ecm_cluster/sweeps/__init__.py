"""Groups of runs: one job under a grid of options and seeds."""
