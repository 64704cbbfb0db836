"""Training and evaluation data: formats, datasets, augmentation, loaders, checks."""
