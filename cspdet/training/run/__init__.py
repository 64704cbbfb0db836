"""Training run: directory, lock, options, progress, graceful stop."""
