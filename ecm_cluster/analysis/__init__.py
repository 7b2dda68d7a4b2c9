"""What a detector gets wrong: errors by type, confusions, calibration, the worst images."""
