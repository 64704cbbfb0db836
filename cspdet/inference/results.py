"""The result of a detector for one image: detections with class names, drawing, and conversions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from cspdet.inference.draw import draw_detections
from cspdet.inference.image_input import LoadedImage
from cspdet.inference.image_result import ImageResult, ResultImage
from cspdet.inference.interop import to_supervision
from cspdet.inference.records import DetectionRecord, detection_records
from cspdet.structures import Categories, Detections

if TYPE_CHECKING:
    import supervision

MAX_LISTED = 5  # detections that `repr` lists
Indices = slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor


class Detection(NamedTuple):
    """One detection."""

    box_xyxy: tuple[float, float, float, float]  # image pixels
    score: float  # in [0, 1]
    class_id: int  # index into the class names
    class_name: str
    category_id: int  # of the annotations


@dataclass(frozen=True, eq=False, repr=False)
class DetectionResult(Detections, ImageResult):
    """The detections of one image, best first, in pixels of the image.

    A result is a sequence. `result[0]` and `for detection in result` return `Detection`. Slices, lists of indices and
    masks, as in `result[result.score > 0.5]`, return a `DetectionResult`.

    Attributes:
        categories: Names and category ids of the classes, by class index.
        image: The image.
    """

    columns: ClassVar[tuple[str, ...]] = ("x1", "y1", "x2", "y2", "score", "class_id", "class_name", "category_id")
    categories: Categories
    image: ResultImage

    @classmethod
    def from_detections(cls, detections: Detections, categories: Categories, image: LoadedImage) -> DetectionResult:
        """Add the classes and the image to detections in image pixels."""
        found = ResultImage.from_loaded(image)
        return cls(detections.box_xyxy, detections.score, detections.class_id, categories, found)

    @property
    def class_name(self) -> tuple[str, ...]:
        """Name of the class of each detection."""
        return tuple(self.categories.names[i] for i in self.class_id.tolist())

    @property
    def category_id(self) -> tuple[int, ...]:
        """Category id of each detection, as in the annotations."""
        return tuple(self.categories.category_ids[i] for i in self.class_id.tolist())

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: Indices) -> DetectionResult: ...

    def __getitem__(self, index: int | Indices) -> Detection | DetectionResult:
        if isinstance(index, (int, np.integer)):
            return self._detection(int(index))
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.score.device)
            index = index.long() if index.numel() == 0 and index.dtype != torch.bool else index
        return replace(self, box_xyxy=self.box_xyxy[index], score=self.score[index], class_id=self.class_id[index])

    def _detection(self, index: int) -> Detection:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} detections")
        x1, y1, x2, y2 = self.box_xyxy[index].tolist()
        class_id = int(self.class_id[index])
        name, category_id = self.categories.names[class_id], self.categories.category_ids[class_id]
        return Detection((x1, y1, x2, y2), float(self.score[index]), class_id, name, category_id)

    def __iter__(self) -> Iterator[Detection]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        listed = [f"{d.class_name} {d.score:.2f}" for d in self[:MAX_LISTED]]
        more = [f"{len(self) - MAX_LISTED} more"] if len(self) > MAX_LISTED else []
        count = f"{len(self)} detection{'' if len(self) == 1 else 's'}"
        return f"DetectionResult({count} in {self.image}: {', '.join(listed + more) or 'none'})"

    def plot(self, *, line_width: int | None = None, hide_labels: bool = False) -> np.ndarray:
        """Draw the detections on a copy of the image.

        Args:
            line_width: Line width in pixels; None: derived from the image size.
            hide_labels: Draw the boxes only.

        Returns:
            (H, W, 3) uint8 RGB; for OpenCV: `plot()[..., ::-1]`.
        """
        return draw_detections(
            self.image.pixels, self, self.categories.names, width=line_width, hide_labels=hide_labels
        )

    def _records(self) -> list[DetectionRecord]:
        return detection_records(self, self.categories.names, self.categories.category_ids)

    def to_dict(self) -> dict[str, Any]:
        """Return the result with the keys of a line of detections.jsonl: source, width, height, detections."""
        return {**self._image_record(), "detections": self._records()}

    def _table(self) -> list[dict[str, Any]]:
        return [
            {**dict(zip(self.columns[:4], record["box_xyxy"], strict=True)),
             **{key: value for key, value in record.items() if key != "box_xyxy"}}
            for record in self._records()
        ]  # fmt: skip

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return the detections in COCO's results format: image_id, category_id, bbox (x, y, width, height), score."""
        return [
            {
                "image_id": image_id,
                "category_id": d.category_id,
                "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(d.score, 7),
            }
            for d in self
            for x1, y1, x2, y2 in [d.box_xyxy]
        ]

    def to_supervision(self) -> supervision.Detections:
        """Return `supervision.Detections` with class names.

        Raises:
            ConfigError: supervision is not installed.
        """
        return to_supervision(self, self.categories.names)
