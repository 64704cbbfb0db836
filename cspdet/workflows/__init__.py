"""Implementation of the API functions: from config and files to results."""
