"""From a picture to what is on it: sources, prediction, NMS, drawing, writing."""
