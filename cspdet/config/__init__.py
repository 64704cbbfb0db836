"""Strict configs: read, resolve and validate YAML; registries of components; key names of cspdet 1."""
