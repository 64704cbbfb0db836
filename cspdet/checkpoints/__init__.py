"""Models from any source: checkpoints, configs, exported files, Darknet files; pretrained weights; resume."""
