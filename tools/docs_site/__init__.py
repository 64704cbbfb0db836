"""The documentation site: the hooks of MkDocs, and the generators of the reference pages."""
