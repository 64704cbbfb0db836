"""Classification datasets: image folders, augmentation, loaders, crops."""
