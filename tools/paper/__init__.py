"""Generators of documentation pages: docs/models/paper.md and the drawings of docs/explanation/csp.md."""
