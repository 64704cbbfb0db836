"""Targets, losses, schedules and the training loop."""
