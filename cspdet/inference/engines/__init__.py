"""Inference engines: one interface, one file and one registry entry each."""
