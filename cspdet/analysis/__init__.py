"""Why an AP is what it is: curves, error kinds, confusion, sizes, calibration, suspects, and runs side by side."""
