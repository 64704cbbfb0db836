"""Inference engines with a common interface. Each engine has one file and one entry in the registry."""
