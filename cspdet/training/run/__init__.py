"""A training run: directory, lock, options, progress, graceful stop."""
