"""Drawings of the networks for docs/csp.md, made by running the real modules: `PICTURES` in `pictures` lists them."""
