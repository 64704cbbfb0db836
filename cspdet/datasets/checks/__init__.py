"""Checks of detection datasets: errors (`validate`), statistics of annotations, near-duplicate images."""
