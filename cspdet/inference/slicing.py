"""What is asked of a detector: whole pictures or tiles of them, all classes or some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from cspdet.errors import ConfigError, did_you_mean
from cspdet.inference.tiles import Tile, merge_tiles, tile_grid
from cspdet.models.config import PostprocessConfig
from cspdet.structures import Detections

# What a detector is to give of a picture where some of it is left out afterwards: so the first `max_detections`
# of the wanted classes are there, whatever else was found.
PRE_FILTER_LIMIT = 1000


class SupportsPredict(Protocol):
    """A Predictor, as far as a search needs it."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the network's input."""

    def predict(self, x: list[np.ndarray], /) -> list[Detections]:
        """Detections of each (H, W, 3) uint8 RGB picture, best first, in its pixels."""


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut."""

    tile_size: int | None  # pixels; None is the size of the network's input
    overlap: float = 0.2  # the share of a side that neighbours have in common

    def tile_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a tile for a network with input `size_hw`."""
        return size_hw if self.tile_size is None else (self.tile_size, self.tile_size)


@dataclass(frozen=True)
class SlicedDetector:
    """`find` looks for what is wanted.

    With tiles, a picture is looked at as a whole and in tiles: large objects are found in the one, small ones in
    the others. A picture that fits into one tile has no more than that.
    """

    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)  # of the image; NMS between tiles too
    class_ids: frozenset[int] | None = None  # indices into the class names; None for all
    tiling: Tiling | None = None

    @property
    def detector_config(self) -> PostprocessConfig:
        """The post-processing of the detector: a higher `max_detections` where detections are filtered afterwards."""
        if self.class_ids is None and self.tiling is None:
            return self.postprocess
        limit = max(self.postprocess.max_detections, PRE_FILTER_LIMIT)
        return self.postprocess.model_copy(update={"max_detections": limit})

    def predict(self, detector: SupportsPredict, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detections of each (H, W, 3) uint8 RGB picture, best first, in its pixels."""
        if self.tiling is None:
            return [self._filter_and_limit(found) for found in detector.predict(list(images))]
        return [self._predict_tiles(detector, image, self.tiling) for image in images]

    def _predict_tiles(self, detector: SupportsPredict, image: np.ndarray, tiling: Tiling) -> Detections:
        size_hw = (image.shape[0], image.shape[1])
        grid = tile_grid(size_hw, tiling.tile_hw(detector.size_hw), tiling.overlap)
        tiles = [Tile.from_image_size(size_hw)] + (grid if len(grid) > 1 else [])
        crops = [np.ascontiguousarray(image[t.y1 : t.y2, t.x1 : t.x2]) for t in tiles]
        found = [self._filter_classes(part) for part in detector.predict(crops)]
        parts = list(zip(tiles, found, strict=True))
        return merge_tiles(parts, size_hw, self.postprocess)

    def _filter_classes(self, detections: Detections) -> Detections:
        if self.class_ids is None:
            return detections
        keep = torch.isin(detections.class_id, torch.tensor(sorted(self.class_ids), dtype=detections.class_id.dtype))
        return Detections(detections.box_xyxy[keep], detections.score[keep], detections.class_id[keep])

    def _filter_and_limit(self, detections: Detections) -> Detections:
        some = self._filter_classes(detections)
        n = self.postprocess.max_detections
        return Detections(some.box_xyxy[:n], some.score[:n], some.class_id[:n])


def parse_class_filter(text: str, names: Sequence[str], category_ids: Sequence[int]) -> frozenset[int]:
    """`person,car` or `1,3` (category ids of the annotations) to indices into `names`.

    Raises:
        ConfigError: a name or id that the model does not have; all of them at once.
    """
    index_of = {str(category_id): index for index, category_id in enumerate(category_ids)}
    index_of |= {name.lower(): index for index, name in enumerate(names)}
    index_of |= {name: index for index, name in enumerate(names)}
    words = [word.strip() for word in text.split(",")]
    words = [word if word in index_of else word.lower() for word in words]
    known = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    problems = [
        f"--classes: the model has no class {word!r}{did_you_mean(word, index_of)}; its classes are {known}"
        for word in words
        if word not in index_of
    ]
    if problems:
        raise ConfigError(*problems)
    return frozenset(index_of[word] for word in words)
