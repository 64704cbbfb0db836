"""Annotation statistics of a split: classes, sizes, aspect ratios, positions and number of boxes.

Images are not read, so a million boxes take about one second. Errors in annotations are found by `validate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from cspdet.datasets.checks.validate import LARGE_AREA, SMALL_AREA
from cspdet.datasets.formats.coco import CocoDataset

GRID = 32  # rows and columns of the position maps
BINS_PER_OCTAVE = 2  # bins of sizes and aspect ratios: the upper edge of a bin is 1.41 times the lower edge
MAX_BINS = 40  # maximum number of bins of the histogram of boxes per image
BELOW_ONE = 1 - 2**-20  # maximum relative side: a box as large as its image belongs to the bin that ends at 1
CHUNK_SIZE = 1 << 16  # boxes per matrix product of the coverage map


class HistogramJson(TypedDict):
    """JSON form of a `Histogram`."""

    edges: list[float]
    counts: list[int]
    quantiles: list[float] | None


class ClassJson(TypedDict):
    """JSON form of a `ClassStatistics`."""

    name: str
    category_id: int
    boxes: int
    images: int
    crowds: int
    median_side: float | None
    median_aspect: float | None


class StatisticsJson(TypedDict):
    """JSON form of a `DataStatistics`."""

    images: int
    empty_images: int
    boxes: int
    crowds: int
    classes: list[ClassJson]
    sides: HistogramJson
    relative_sides: HistogramJson
    coco_sizes: dict[str, int]
    aspects: HistogramJson
    boxes_per_image: HistogramJson
    image_sizes: list[dict[str, int]]
    centers: list[list[int]]
    coverage: list[list[float]]


@dataclass(frozen=True)
class Histogram:
    """Histogram of K adjacent bins; bin i counts the values in [edges[i], edges[i + 1]).

    Without values, there are no bins.
    """

    edges: tuple[float, ...]  # (K + 1,) ascending
    counts: tuple[int, ...]  # (K,)
    quantiles: tuple[float, float, float] | None  # 5%, 50% (median) and 95% quantiles of the values

    def to_json(self) -> HistogramJson:
        """Return the histogram as JSON-compatible values."""
        quantiles = None if self.quantiles is None else list(self.quantiles)
        return {"edges": list(self.edges), "counts": list(self.counts), "quantiles": quantiles}


@dataclass(frozen=True)
class ClassStatistics:
    """Statistics of one class; the medians are None if the class has no boxes."""

    name: str
    category_id: int
    boxes: int  # number of boxes without crowds
    images: int  # number of images with at least one such box
    crowds: int
    median_side: float | None  # sqrt(width * height) in image pixels
    median_aspect: float | None  # width / height

    def to_json(self) -> ClassJson:
        """Return the statistics as JSON-compatible values."""
        return {
            "name": self.name,
            "category_id": self.category_id,
            "boxes": self.boxes,
            "images": self.images,
            "crowds": self.crowds,
            "median_side": self.median_side,
            "median_aspect": self.median_aspect,
        }


@dataclass(frozen=True)
class ImageSize:
    """Image size in pixels, and the number of images that have it."""

    height: int
    width: int
    images: int


@dataclass(frozen=True, eq=False)
class DataStatistics:
    """Statistics of one split; the fields from `sides` on exclude crowds."""

    images: int
    empty_images: int  # without any box
    boxes: int
    crowds: int
    classes: tuple[ClassStatistics, ...]  # in the order of the network's outputs
    sides: Histogram  # sqrt(width * height) of the boxes in image pixels; bins grow by sqrt(2)
    relative_sides: Histogram  # the same over sqrt(width * height) of the image, at most 1
    coco_sizes: dict[str, int]  # boxes "small" (below 32x32 pixels), "medium", "large" (above 96x96), by box area
    aspects: Histogram  # width / height; 1 is in the middle of its bin
    boxes_per_image: Histogram  # integers; images without boxes count
    image_sizes: tuple[ImageSize, ...]  # the most frequent first
    centers: (
        np.ndarray
    )  # (GRID, GRID) int64: boxes with their center in the cell, rows from the top, relative to the image
    coverage: np.ndarray  # (GRID, GRID) float64: mean number of boxes that cover a point of the cell, per image

    def to_json(self) -> StatisticsJson:
        """Return the fields as JSON-compatible values."""
        return {
            "images": self.images,
            "empty_images": self.empty_images,
            "boxes": self.boxes,
            "crowds": self.crowds,
            "classes": [entry.to_json() for entry in self.classes],
            "sides": self.sides.to_json(),
            "relative_sides": self.relative_sides.to_json(),
            "coco_sizes": dict(self.coco_sizes),
            "aspects": self.aspects.to_json(),
            "boxes_per_image": self.boxes_per_image.to_json(),
            "image_sizes": [dict(vars(size)) for size in self.image_sizes],
            "centers": self.centers.tolist(),
            "coverage": [[round(value, 6) for value in row] for row in self.coverage.tolist()],
        }


def data_statistics(coco: CocoDataset) -> DataStatistics:
    """Compute the statistics of a split."""
    objects = ~coco.box_crowd
    image_index = np.repeat(np.arange(len(coco)), np.diff(coco.box_start))
    box_xyxy, image_of_box = coco.box_xyxy[objects].astype(np.float64), image_index[objects]
    size_wh = box_xyxy[:, 2:] - box_xyxy[:, :2]
    image_wh = coco.size_hw[image_of_box][:, ::-1].astype(np.float64)
    area, image_area = size_wh.prod(axis=1), image_wh.prod(axis=1)
    side, aspect = np.sqrt(area), size_wh[:, 0] / size_wh[:, 1]
    small, large = int((area < SMALL_AREA).sum()), int((area > LARGE_AREA).sum())
    relative_xyxy = box_xyxy / np.tile(image_wh, 2)
    return DataStatistics(
        images=len(coco),
        empty_images=int((np.diff(coco.box_start) == 0).sum()),
        boxes=len(objects),
        crowds=int(coco.box_crowd.sum()),
        classes=_class_statistics(coco, objects, image_of_box, side, aspect),
        sides=_log2_histogram(side, center_bins=False),
        relative_sides=_log2_histogram(np.sqrt(area / image_area).clip(max=BELOW_ONE), center_bins=False),
        coco_sizes={"small": small, "medium": len(area) - small - large, "large": large},
        aspects=_log2_histogram(aspect, center_bins=True),
        boxes_per_image=_integer_histogram(np.bincount(image_of_box, minlength=len(coco))),
        image_sizes=_image_sizes(coco.size_hw),
        centers=_centers(relative_xyxy),
        coverage=_coverage(relative_xyxy, len(coco)),
    )


def _class_statistics(
    coco: CocoDataset, objects: np.ndarray, image_index: np.ndarray, side: np.ndarray, aspect: np.ndarray
) -> tuple[ClassStatistics, ...]:
    """Compute the statistics of each class.

    `objects` selects the non-crowd boxes; `image_index`, `side`, `aspect` have one value for each.
    """
    count, class_id = len(coco.classes), coco.box_class[objects]
    boxes = np.bincount(class_id, minlength=count)
    crowds = np.bincount(coco.box_class[coco.box_crowd], minlength=count)
    with_class = np.bincount(np.unique(image_index * count + class_id) % count, minlength=count) if count else boxes
    by_class = np.split(np.argsort(class_id, kind="stable"), np.cumsum(boxes)[:-1])
    return tuple(
        ClassStatistics(
            name=coco.classes.names[i],
            category_id=coco.classes.category_ids[i],
            boxes=int(boxes[i]),
            images=int(with_class[i]),
            crowds=int(crowds[i]),
            median_side=float(np.median(side[by_class[i]])) if boxes[i] else None,
            median_aspect=float(np.median(aspect[by_class[i]])) if boxes[i] else None,
        )
        for i in range(count)
    )


def _log2_histogram(values: np.ndarray, *, center_bins: bool) -> Histogram:
    """Compute a histogram of positive values with bin edges (if `center_bins`: bin centers) at powers of sqrt(2)."""
    if not len(values):
        return Histogram((), (), None)
    shift = 0.5 if center_bins else 0.0
    bin_index = np.floor(BINS_PER_OCTAVE * np.log2(values) + shift).astype(np.int64)
    first = int(bin_index.min())
    counts = np.bincount(bin_index - first)
    edges = 2.0 ** ((np.arange(first, first + len(counts) + 1) - shift) / BINS_PER_OCTAVE)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), _quantiles(values))


def _integer_histogram(values: np.ndarray) -> Histogram:
    """Compute a histogram of integers >= 0, with at most MAX_BINS bins of one or more adjacent integers each."""
    if not len(values):
        return Histogram((), (), None)
    step = -(-(int(values.max()) + 1) // MAX_BINS)
    counts = np.bincount(values // step)
    edges = tuple(float(step * i) for i in range(len(counts) + 1))
    return Histogram(edges, tuple(counts.tolist()), _quantiles(values))


def _quantiles(values: np.ndarray) -> tuple[float, float, float]:
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return (low, median, high)


def _image_sizes(size_hw: np.ndarray) -> tuple[ImageSize, ...]:
    sizes, counts = np.unique(size_hw.reshape(-1, 2), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple(ImageSize(int(sizes[i, 0]), int(sizes[i, 1]), int(counts[i])) for i in order)


def _centers(relative_xyxy: np.ndarray) -> np.ndarray:
    """Count the box centers in each cell of a grid: (M, 4) boxes relative to their images -> (GRID, GRID)."""
    center = (relative_xyxy[:, :2] + relative_xyxy[:, 2:]) / 2
    col, row = np.clip((GRID * center).astype(np.int64), 0, GRID - 1).T
    return np.bincount(row * GRID + col, minlength=GRID * GRID).reshape(GRID, GRID)


def _coverage(relative_xyxy: np.ndarray, num_images: int) -> np.ndarray:
    """Compute how many boxes cover each cell on average per image: (M, 4) relative boxes -> (GRID, GRID).

    The fraction of a cell that a box covers is the product of the covered fractions of row and column. Therefore, the
    sum over all boxes is a matrix product.
    """
    total = np.zeros((GRID, GRID))
    cells = np.arange(GRID)
    for first in range(0, len(relative_xyxy), CHUNK_SIZE):
        chunk = GRID * relative_xyxy[first : first + CHUNK_SIZE]
        low, high = chunk[:, :2, None], chunk[:, 2:, None]
        covered_fraction = (np.minimum(high, cells + 1) - np.maximum(low, cells)).clip(min=0)  # (chunk, 2, GRID): x, y
        total += covered_fraction[:, 1].T @ covered_fraction[:, 0]
    return total / max(1, num_images)
