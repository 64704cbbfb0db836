"""The result of a classifier for one image: class probabilities, drawing, and conversions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from cspdet.inference.draw import draw_caption
from cspdet.inference.image_result import ImageResult, ResultImage

NO_IMAGE = ResultImage("image", None, (0, 0), np.empty((0, 0, 3), np.uint8))


class ClassScore(NamedTuple):
    """A class with its probability."""

    class_id: int  # index into the class names
    class_name: str
    score: float  # in [0, 1]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(ImageResult):
    """The class probabilities of an image. `len` is the number of classes; iteration yields `ClassScore`s, best first.

    Attributes:
        class_names: Names of the C classes, by class index.
        probability: (C,) float32, sums to 1.
        image: The image.
    """

    columns: ClassVar[tuple[str, ...]] = ClassScore._fields
    class_names: tuple[str, ...]
    probability: Tensor
    image: ResultImage = NO_IMAGE

    def top(self, count: int = 5) -> tuple[ClassScore, ...]:
        """Return the `count` most probable classes, best first; all classes if there are fewer."""
        best = self.probability.topk(max(1, min(count, len(self.class_names))))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return tuple(ClassScore(i, self.class_names[i], score) for i, score in pairs)

    @property
    def class_id(self) -> int:
        """Index of the most probable class."""
        return self.top(1)[0].class_id

    @property
    def class_name(self) -> str:
        """Name of the most probable class."""
        return self.top(1)[0].class_name

    @property
    def score(self) -> float:
        """Probability of the most probable class."""
        return self.top(1)[0].score

    def __len__(self) -> int:
        return len(self.class_names)

    def __iter__(self) -> Iterator[ClassScore]:
        return iter(self.top(len(self)))

    def __repr__(self) -> str:
        return f"Prediction({self.class_name!r}, score={self.score:.4f})"

    def plot(self) -> np.ndarray:
        """Write the most probable class on a copy of the image: (H, W, 3) uint8 RGB."""
        drawn = self.image.pixels.copy()
        draw_caption(drawn, f"{self.class_name} {self.score:.2f}")
        return drawn

    def to_dict(self, count: int = 5) -> dict[str, Any]:
        """Return the result with the keys of `classify --json`: source, width, height, the `count` best predictions."""
        return {**self._image_record(), "predictions": self._table()[:count]}

    def _table(self) -> list[dict[str, Any]]:
        return [{**item._asdict(), "score": round(item.score, 6)} for item in self]
