"""Config files: YAML reading, overrides, validation, component registries, and renamed keys of cspdet 1."""
