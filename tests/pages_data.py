"""A made data set with pictures, a detector's results on it, and a reader of pages, for tests of cspdet.pages."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cspdet.analysis.build import analyze_results
from cspdet.analysis.types import Analysis
from cspdet.datasets.coco import CocoSet, load_coco
from cspdet.datasets.descriptor import SplitFiles

HEIGHT, WIDTH = 160, 240  # drawings are 480 wide, so one pixel is two units
VOID = {"meta", "link", "img", "br", "input"}


def write_pictures(folder: Path, names: list[str], seed: int = 0, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """Noise, which compresses worst."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in names:
        pixels = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        (folder / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def write_split(folder: Path, split: str, class_names: list[str], names: list[str], boxes: list[list[Any]]) -> Path:
    """An annotation file; boxes are [picture, class, x, y, width, height, crowd]."""
    images = [{"id": 7 * i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)]
    annotations = [
        {"id": i, "image_id": 7 * p, "category_id": 10 + c, "bbox": xywh, "iscrowd": int(crowd)}
        for i, (p, c, *xywh, crowd) in enumerate(boxes)
    ]
    categories = [{"id": 10 + i, "name": name} for i, name in enumerate(class_names)]
    path = folder / f"{split}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def made_case(
    folder: Path, class_names: tuple[str, ...] = ("disk", "star"), name: str = "first"
) -> tuple[CocoSet, Analysis]:
    """Three pictures and five boxes, one a crowd: two found, one taken for another class, one missed, one invention."""
    names = ["a.png", "b.png", "c.png"]
    write_pictures(folder / "images", names)
    boxes = [
        [0, 0, 10, 20, 30, 40, 0],
        [0, 1, 100, 60, 50, 50, 0],
        [1, 0, 20, 20, 60, 60, 0],
        [1, 1, 150, 90, 40, 40, 0],
        [2, 1, 0, 0, 120, 80, 1],
    ]
    path = write_split(folder, "val", list(class_names), names, boxes)
    coco = load_coco(SplitFiles(folder / "images", path), "val")
    rows = [
        [0, 10, [10, 20, 30, 40], 0.9],  # correct
        [0, 11, [100, 60, 50, 50], 0.8],  # correct
        [7, 11, [20, 20, 60, 60], 0.7],  # the wrong class
        [7, 10, [180, 10, 30, 30], 0.95],  # nothing there
    ]
    keys = ("image_id", "category_id", "bbox", "score")
    results = [dict(zip(keys, row, strict=True)) for row in rows]
    return coco, analyze_results(coco, results, name=name, source="detections.json", min_score=0.5)


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order. Gathers what tests look at."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.text = text
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []  # all text but that of scripts and styles
        self.tables: dict[str, list[list[str]]] = {}  # by caption; data-value of numbers, text of others
        self.headings: dict[str, list[str]] = {}
        self._caption = ""
        self._value: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else, at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside in ("script", "style"):
            return
        self.words.append(data)
        if inside == "caption":
            self._caption = data
            self.tables[data], self.headings[data] = [], []
        elif inside == "button" and "thead" in self.open:
            self.headings[self._caption].append(data)
        elif "tbody" in self.open and inside in ("td", "th", "span"):
            row = self.tables[self._caption][-1]
            row[-1] = row[-1] + data if self._value is None else self._value

    def _seen(self, tag: str, attrs: dict[str, str | None]) -> None:
        self.tags.append((tag, attrs))
        if attrs.get("id"):
            assert attrs["id"] not in self.ids, f"two elements are called {attrs['id']}"
            self.ids.append(str(attrs["id"]))
        if tag == "tr" and "tbody" in self.open:
            self.tables[self._caption].append([])
        if tag in ("td", "th") and "tbody" in self.open:
            self._value = attrs.get("data-value")
            self.tables[self._caption][-1].append(self._value or "")

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        """Those of every element of this kind."""
        return [attrs for name, attrs in self.tags if name == tag]

    def column(self, caption: str, heading: str) -> list[str]:
        """The values of a table's column, from top to bottom."""
        place = self.headings[caption].index(heading)
        return [row[place] for row in self.tables[caption]]

    @property
    def plain(self) -> str:
        return " ".join(" ".join(self.words).split())
