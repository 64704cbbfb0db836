"""Inference: engines, predictors, detection in tiles and in videos, tracking, drawing."""
