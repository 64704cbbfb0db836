"""Pictures inside a page: shrunk, as JPEG in data: addresses, within a budget of bytes, with boxes drawn over them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from cspdet.datasets.image_io import read_picture
from cspdet.errors import DataError
from cspdet.reports.components import Mark, Shown

LONG_SIDE = 480  # pixels of a shown picture, and units of every drawing
QUALITY = 80  # of its JPEG
BUDGET = 11_000_000  # bytes that all pictures of a page may take, in base64
CONTEXT = 0.75  # of a box's longer side, shown around it on each side
LEAST_CROP = 96.0  # pixels of the original that a crop shows at least


@dataclass(frozen=True)
class Box:
    """A box to draw on a picture."""

    box_xyxy: tuple[float, float, float, float]  # pixels of the original
    style: str
    tag: str = ""
    text: str = ""


@dataclass
class Album:
    """Takes pictures into a page and counts those that it had to leave out."""

    budget: int = BUDGET
    used: int = 0
    unreadable: list[str] = field(default_factory=list)
    left_out: int = 0  # for want of room
    _last: tuple[Path, np.ndarray] | None = None  # crops of one picture come one after the other

    def show(
        self,
        path: Path,
        boxes: Sequence[Box],
        text: str,
        *,
        crop_xyxy: tuple[float, float, float, float] | None = None,
        long_side: int = LONG_SIDE,
    ) -> Shown | None:
        """The picture, or the part of it in `crop_xyxy` (pixels), with boxes; None when it is left out."""
        if self.used >= self.budget:
            self.left_out += 1
            return None
        image = self._read(path)
        if image is None:
            return None
        x1, y1, x2, y2 = _inside(crop_xyxy, image.shape[1], image.shape[0])
        data = _jpeg(image[y1:y2, x1:x2], long_side)
        if self.used + len(data) > self.budget:
            self.left_out += 1
            return None
        self.used += len(data)
        unit = LONG_SIDE / max(x2 - x1, y2 - y1)
        width, height = max(1, round((x2 - x1) * unit)), max(1, round((y2 - y1) * unit))
        marks = tuple(mark for box in boxes if (mark := _mark(box, (x1, y1), unit, (width, height))) is not None)
        return Shown(data, width, height, marks, text)

    def notes(self) -> tuple[str, ...]:
        """What was left out, in sentences."""
        notes = []
        if self.unreadable:
            first = self.unreadable[0]
            notes.append(f"{len(self.unreadable)} pictures cannot be read and are not shown; the first: {first}")
        if self.left_out:
            notes.append(f"{self.left_out} more pictures are left out to keep this page small")
        return tuple(notes)

    def _read(self, path: Path) -> np.ndarray | None:
        if self._last is not None and self._last[0] == path:
            return self._last[1]
        try:
            image = read_picture(path)
        except DataError as error:
            self.unreadable.append(error.problems[0])
            return None
        self._last = (path, image)
        return image


def around(box_xyxy: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """A square around a box with context on all sides, in the box's units; it may reach out of the picture."""
    x1, y1, x2, y2 = box_xyxy
    half = max((0.5 + CONTEXT) * max(x2 - x1, y2 - y1), LEAST_CROP / 2)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return x - half, y - half, x + half, y + half


def _inside(crop: tuple[float, float, float, float] | None, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole pixels of the crop that the picture has: at least one, also where the crop lies outside."""
    if crop is None:
        return 0, 0, width, height
    x1, y1 = min(max(0, int(crop[0])), width - 1), min(max(0, int(crop[1])), height - 1)
    x2, y2 = min(width, int(np.ceil(crop[2]))), min(height, int(np.ceil(crop[3])))
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _jpeg(image: np.ndarray, long_side: int) -> str:
    """(H, W, 3) uint8 RGB as a data: address; larger ones are shrunk to `long_side` pixels."""
    height, width = image.shape[:2]
    shrink = long_side / max(height, width)
    if shrink < 1:
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done, "an 8-bit picture has a JPEG"
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _mark(box: Box, origin_xy: tuple[int, int], unit: float, size_wh: tuple[int, int]) -> Mark | None:
    """The box in units of the drawing, cut at its edges; None when nothing of it is inside."""
    x1, y1, x2, y2 = ((value - origin_xy[i % 2]) * unit for i, value in enumerate(box.box_xyxy))
    if x2 <= 0 or y2 <= 0 or x1 >= size_wh[0] or y1 >= size_wh[1]:
        return None
    x1, y1, x2, y2 = max(x1, 1.0), max(y1, 1.0), min(x2, size_wh[0] - 1.0), min(y2, size_wh[1] - 1.0)
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    return Mark(round(x1, 1), round(y1, 1), round(width, 1), round(height, 1), box.style, box.tag, box.text)
