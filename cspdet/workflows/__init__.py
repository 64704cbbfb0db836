"""Implementation of the API functions: they read configs, models and data, and return results."""
