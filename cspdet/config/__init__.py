"""Strict YAML configs: reading, section files and overrides, validation, registries of components, keys of cspdet 1."""
