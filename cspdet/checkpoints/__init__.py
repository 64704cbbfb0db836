"""Model loading from checkpoints, configs, exported files and Darknet files; pretrained weights; resuming of runs."""
