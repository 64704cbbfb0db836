"""The built-in dataset of drawn shapes, for tests and for a first training without downloads."""
