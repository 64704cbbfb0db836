"""Pages to read in a browser: one HTML file each, with its pictures, charts and sorting inside it."""
