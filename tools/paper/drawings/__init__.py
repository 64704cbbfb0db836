"""Drawings of networks, made by running their modules."""
