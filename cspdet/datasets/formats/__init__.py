"""Dataset formats: COCO JSON, Pascal VOC xml, YOLO txt, and user-defined formats (`base.DatasetFormat`).

`base` has the interface and the registry; `coco` has the arrays of a split (`CocoDataset`), which training and
evaluation use for all formats; `coco_parse`, `coco_json` and `coco_writer` read, validate and write COCO files.
"""
