"""Evaluation: COCO and Pascal VOC metrics of detections, accuracy of classifiers, COCO results files.

`predictors` has the interface by which networks and engines are evaluated; `detection` and `classification` run them on
a dataset; `coco`, `coco_backends` and `voc` compute the metrics; `records` holds detections, `results` their files.
"""
