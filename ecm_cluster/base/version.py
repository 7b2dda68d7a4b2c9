"""The version of the package, read by setup.cfg and written into each run."""

__version__ = "0.1.0"
