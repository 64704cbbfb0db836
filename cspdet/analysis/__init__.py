"""Error analysis of detection results: curves, error types, confusion, sizes, calibration, label issues, comparison."""
