"""HTML report pages with embedded images and charts, and plots of training curves and network layers."""
