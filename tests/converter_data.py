"""Small VOC and YOLO data sets on disk, and what a conversion made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from cspdet.errors import DataError

WIDTH, HEIGHT = 60, 40
PNG = cv2.imencode(".png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
Found = dict[str, list[tuple[Any, ...]]]  # picture -> (class, x, y, width, height) of each box

# corners (x1, y1, x2, y2) of boxes within the picture, the far ones outside the box, at least two pixels wide
corners = st.builds(
    lambda x, y, width, height: (x, y, min(x + width, WIDTH), min(y + height, HEIGHT)),
    st.integers(0, WIDTH - 2),
    st.integers(0, HEIGHT - 2),
    st.integers(2, WIDTH),
    st.integers(2, HEIGHT),
)
pictures = st.lists(
    st.lists(st.tuples(st.sampled_from(["ant", "bee", "cat"]), corners), max_size=4), min_size=1, max_size=5
)
few = settings(max_examples=25, deadline=None)  # each example writes files


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def xml(boxes: list[tuple[str, tuple[Any, ...]]], size: str | None = None, extra: str = "") -> str:
    """An annotation file; `boxes` are (class, (xmin, ymin, xmax, ymax)) as they are to be written."""
    if size is None:
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult>{extra}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in boxes
    )
    return f"<annotation><filename>x.png</filename>{size}{objects}</annotation>"


def voc(folder: Path, files: dict[str, str]) -> Path:
    """A folder in VOC's layout: `files` are name -> xml, each with a picture."""
    for name, text in files.items():
        write(folder / "Annotations" / f"{name}.xml", text)
        picture(folder / "JPEGImages" / f"{name}.png")
    return folder


def converted(folder: Path, *splits: str) -> Found:
    """What a conversion wrote, by picture."""
    found: Found = {}
    for split in splits or ("train", "val"):
        coco = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        names = {category["id"]: category["name"] for category in coco["categories"]}
        files = {image["id"]: image["file_name"] for image in coco["images"]}
        for image in coco["images"]:
            assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
            assert image["file_name"] not in found
            found[image["file_name"]] = []
        for a in coco["annotations"]:
            found[files[a["image_id"]]].append((names[a["category_id"]], *a["bbox"]))
            assert a["area"] == a["bbox"][2] * a["bbox"][3]
    return found


def problems(convert: Any, *args: Any, **options: Any) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        convert(*args, **options)
    return caught.value.problems


def yolo_line(index: int, box: tuple[int, int, int, int]) -> str:
    x1, y1, x2, y2 = box
    values = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    return " ".join([str(index), *(f"{value:.7f}" for value in values)])


def yolo(folder: Path, labels: dict[str, str | None], names: str = "ant\nbee\ncat\n") -> Path:
    """A folder with images/ and labels/; `labels` are `train/a` -> lines, or None for no file."""
    for name, text in labels.items():
        picture(folder / "images" / f"{name}.png")
        if text is not None:
            write(folder / "labels" / f"{name}.txt", text)
    write(folder / "classes.txt", names)
    return folder
