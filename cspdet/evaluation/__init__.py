"""How good detections are: COCO's numbers, from a network or from a results file."""
