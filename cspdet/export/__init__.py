"""Export to other formats: `base` has the registry and the interface, one module each the formats."""
