"""Catalogue of trained weights, their download, and the cache in which they are stored. It does not import torch."""
