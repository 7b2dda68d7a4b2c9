"""What differs between two runs: config, code, versions, data."""
