"""Training: the loop, the tasks, and their losses, assigners and loggers."""
