"""Catalogue of trained weights, their download, and their cache. This package does not import torch."""
