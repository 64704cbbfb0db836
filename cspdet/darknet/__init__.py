"""Darknet interoperability: networks from .cfg files, .weights files in and out; `write` exports to Darknet."""
