"""Cpu fast paths."""
