"""Inference engines with a common interface; each engine is one file and one registry entry."""
