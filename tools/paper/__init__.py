"""Generators of documentation pages: docs/paper.md and the drawings of docs/csp.md."""
