"""Evaluation: COCO and Pascal VOC metrics of detections, accuracy of classifiers, COCO results files.

`predictors` defines the interface of the evaluated networks and engines. `detection` and `classification` run them on a
dataset. `coco`, `coco_backends` and `voc` compute the metrics. `records` stores detections as arrays. `results` reads
and checks results files.
"""
