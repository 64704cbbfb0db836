"""Inference: engines, predictors, sliced and video detection, tracking, drawing."""
