"""Detection datasets: images with boxes, augmentation, loaders, anchors."""
