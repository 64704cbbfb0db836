"""Built-in synthetic dataset of shapes, for tests and for a first training without downloads."""
