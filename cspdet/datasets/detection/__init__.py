"""Detection datasets: reading, augmentation, loaders, anchors."""
