"""Datasets for training and evaluation: formats, augmentation, loaders, checks."""
