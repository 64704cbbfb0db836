"""Sliced inference: detection in the whole image and in overlapping tiles, with a class filter."""

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

# Minimum `max_detections` of the detector if its detections are filtered afterwards, so that enough detections of the
# requested classes remain.
PRE_FILTER_LIMIT = 1000


class SupportsPredict(Protocol):
    """The methods and properties of `Predictor` that sliced inference uses."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the network input in pixels."""

    def predict(self, x: list[np.ndarray], /) -> Sequence[Detections]:
        """Return the detections of each (H, W, 3) uint8 RGB image, sorted by descending score, in image pixels."""


@dataclass(frozen=True)
class Tiling:
    """Size and overlap of the tiles into which images are divided.

    Attributes:
        tile_size: Side of a square tile in pixels; None: the input size of the network.
        overlap: Overlap of adjacent tiles as a fraction of their side.
    """

    tile_size: int | None
    overlap: float = 0.2

    def tile_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of a tile, for a network with input size `size_hw`."""
        return size_hw if self.tile_size is None else (self.tile_size, self.tile_size)


@dataclass(frozen=True)
class SlicedDetector:
    """Detects objects in images, with an optional class filter and optional tiling.

    With tiling, the detector runs on the whole image, to find large objects, and on each tile, to find small objects.
    If an image fits into one tile, the detector runs only on the whole image.

    Attributes:
        postprocess: Thresholds and limits per image. `nms_iou` is also the upper limit of the NMS threshold for boxes
            of different tiles.
        class_ids: Indices of the requested classes; None: all classes.
        tiling: Size and overlap of the tiles; None: detect only in whole images.
    """

    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    class_ids: frozenset[int] | None = None
    tiling: Tiling | None = None

    @property
    def detector_config(self) -> PostprocessConfig:
        """Post-processing config with which the detector must run.

        If detections are filtered by class or merged from tiles afterwards, `max_detections` is raised to at least
        PRE_FILTER_LIMIT, so that enough detections remain.
        """
        if self.class_ids is None and self.tiling is None:
            return self.postprocess
        limit = max(self.postprocess.max_detections, PRE_FILTER_LIMIT)
        return self.postprocess.model_copy(update={"max_detections": limit})

    def predict(self, detector: SupportsPredict, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detect objects in images.

        Args:
            detector: A detector with the post-processing `detector_config`.
            images: Images, (H, W, 3) uint8 RGB.

        Returns:
            The detections of each image, sorted by descending score, in image pixels.
        """
        if self.tiling is None:
            return [self._filter_and_limit(detections) for detections in detector.predict(list(images))]
        return [self._predict_tiles(detector, image, self.tiling) for image in images]

    def _predict_tiles(self, detector: SupportsPredict, image: np.ndarray, tiling: Tiling) -> Detections:
        size_hw = (image.shape[0], image.shape[1])
        grid = tile_grid(size_hw, tiling.tile_hw(detector.size_hw), tiling.overlap)
        if len(grid) == 1:
            return self._filter_and_limit(detector.predict([image])[0])
        tiles = [Tile.from_image_size(size_hw), *grid]
        crops = [np.ascontiguousarray(image[t.y1 : t.y2, t.x1 : t.x2]) for t in tiles]
        parts = [
            (tile, self._filter_classes(detections))
            for tile, detections in zip(tiles, detector.predict(crops), strict=True)
        ]
        return merge_tiles(parts, size_hw, self.postprocess)

    def _filter_classes(self, detections: Detections) -> Detections:
        if self.class_ids is None:
            return detections
        keep = torch.isin(detections.class_id, torch.tensor(sorted(self.class_ids), dtype=detections.class_id.dtype))
        return Detections(detections.box_xyxy[keep], detections.score[keep], detections.class_id[keep])

    def _filter_and_limit(self, detections: Detections) -> Detections:
        kept = self._filter_classes(detections)
        n = self.postprocess.max_detections
        return Detections(kept.box_xyxy[:n], kept.score[:n], kept.class_id[:n])


def parse_class_filter(text: str, names: Sequence[str], category_ids: Sequence[int]) -> frozenset[int]:
    """Parse a list of classes, such as `person,car` or `1,3`; return their class indices.

    Args:
        text: Names or category ids, separated by commas.
        names: Names of the model's classes, by class index.
        category_ids: Category ids of the annotations, by class index.

    Raises:
        ConfigError: The model does not have some of the classes; the message lists these classes.
    """
    index_of = {str(category_id): index for index, category_id in enumerate(category_ids)}
    index_of |= {name.lower(): index for index, name in enumerate(names)}
    index_of |= {name: index for index, name in enumerate(names)}
    words = [word if word in index_of else word.lower() for word in map(str.strip, text.split(","))]
    known = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    problems = [
        f"--classes: the model has no class {word!r}{did_you_mean(word, index_of)}; its classes are {known}"
        for word in words
        if word not in index_of
    ]
    if problems:
        raise ConfigError(*problems)
    return frozenset(index_of[word] for word in words)
