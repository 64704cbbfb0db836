"""Darknet interoperability: networks built from .cfg files, reading and writing .weights files, export to Darknet."""
