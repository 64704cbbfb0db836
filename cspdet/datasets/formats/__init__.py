"""Dataset formats: COCO JSON, Pascal VOC xml, YOLO txt, and formats of the user's own (`base.DatasetFormat`).

`base` has the interface and the registry; `coco` holds a split as arrays (`CocoDataset`), which training and evaluation
use whatever the format was; `coco_parse`, `coco_json` and `coco_writer` read, validate and write COCO files.
"""
