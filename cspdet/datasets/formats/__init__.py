"""Dataset formats: COCO JSON, Pascal VOC xml, YOLO txt, and user-defined formats (`base.DatasetFormat`).

`base` defines the interface and the registry. `coco` defines `CocoDataset`, the arrays of a split, which training and
evaluation use for all formats. `coco_parse`, `coco_json` and `coco_writer` parse, validate and write COCO files.
"""
