"""Fit of anchors to the boxes of a dataset, and computation of anchors with k-means.

Boxes and anchors are compared as in training (`cspdet.training.assigners.anchor_iou`): by the IoU of their widths and
heights with a common center, in input pixels. A box is assigned to the anchor with the highest IoU and, with
`match_iou`, to every anchor with an IoU above `match_iou`. Crowds are excluded, as in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
import torch

from cspdet.boxes import wh_iou
from cspdet.config.input import InputConfig
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.errors import DataError
from cspdet.letterbox import Letterbox

STRICT_IOU = 0.5  # second threshold of the report, because `match_iou` of training is low or not set
RESTARTS = 10
MAX_ITERATIONS = 100
KMEANS_SAMPLE_SIZE = 20_000  # maximum number of boxes for k-means; metrics use all boxes
CHUNK = 1 << 16
DECIMALS = 1  # anchors are rounded to 0.1 pixels


class FitJson(TypedDict):
    """`AnchorFit` as JSON."""

    recall: float | None
    recall50: float
    mean_iou: float
    anchors_per_box: float
    best_match_fraction: list[float]


@dataclass(frozen=True)
class AnchorFit:
    """Metrics of K anchors on N boxes."""

    recall: float | None  # fraction of the boxes whose best anchor has an IoU above match_iou; None without match_iou
    recall50: float  # fraction of the boxes whose best anchor has an IoU above STRICT_IOU
    mean_iou: float  # mean IoU of the boxes with their best anchors
    anchors_per_box: float  # mean number of anchors to which a box is assigned in training
    best_match_fraction: tuple[float, ...]  # (K,) fraction of the boxes for which each anchor is the best

    def to_json(self) -> FitJson:
        """Return the metrics as a JSON object."""
        return {
            "recall": self.recall,
            "recall50": self.recall50,
            "mean_iou": self.mean_iou,
            "anchors_per_box": self.anchors_per_box,
            "best_match_fraction": list(self.best_match_fraction),
        }


class BestAnchors(NamedTuple):
    """The best anchor of each of N boxes."""

    iou: np.ndarray  # (N,) float64, IoU of the box with its best anchor
    anchor: np.ndarray  # (N,) int64, index of the best anchor; the first on ties, as in training


def box_sizes_at_input(coco: CocoDataset, input_: InputConfig) -> np.ndarray:
    """Return the widths and heights of all non-crowd boxes of a split, (N, 2) float64, in input pixels."""
    image_index = np.repeat(np.arange(len(coco)), np.diff(coco.box_start))
    size_wh = coco.box_xyxy[:, 2:].astype(np.float64) - coco.box_xyxy[:, :2]
    sizes_hw, size_index = np.unique(coco.size_hw.reshape(-1, 2), axis=0, return_inverse=True)
    fits = [Letterbox.fit((height, width), input_.size, input_.resize) for height, width in sizes_hw.tolist()]
    scales = np.array([(fit.scale_x, fit.scale_y) for fit in fits], np.float64).reshape(-1, 2)
    return (size_wh * scales[size_index.reshape(-1)[image_index]])[~coco.box_crowd]


def best_possible_recall(box_wh: np.ndarray, anchors_wh: np.ndarray, match_iou: float) -> float:
    """Return the fraction of the boxes (N, 2) for which at least one anchor (K, 2) has an IoU above `match_iou`.

    Raises:
        DataError: There are no boxes, or a size is not above 0.
    """
    check_sizes(box_wh)
    return float((best_anchors(box_wh, anchors_wh).iou > match_iou).mean())


def evaluate_anchors(box_wh: np.ndarray, anchors_wh: np.ndarray, match_iou: float | None) -> AnchorFit:
    """Compute the metrics of anchors (K, 2) on boxes (N, 2); both are widths and heights in input pixels.

    Raises:
        DataError: There are no boxes, or a size is not above 0.
    """
    check_sizes(box_wh)
    best, num_positives = best_anchors(box_wh, anchors_wh), 0
    for start in range(0, len(box_wh), CHUNK):
        iou = _shape_iou(box_wh[start : start + CHUNK], anchors_wh)
        positive = np.zeros_like(iou, dtype=bool) if match_iou is None else iou > match_iou
        positive[np.arange(len(iou)), best.anchor[start : start + CHUNK]] = True
        num_positives += int(positive.sum())
    return AnchorFit(
        recall=None if match_iou is None else float((best.iou > match_iou).mean()),
        recall50=float((best.iou > STRICT_IOU).mean()),
        mean_iou=float(best.iou.mean()),
        anchors_per_box=num_positives / len(box_wh),
        best_match_fraction=tuple((np.bincount(best.anchor, minlength=len(anchors_wh)) / len(box_wh)).tolist()),
    )


def best_anchors(box_wh: np.ndarray, anchors_wh: np.ndarray) -> BestAnchors:
    """Find the anchor with the highest IoU for each box; boxes (N, 2) and anchors (K, 2) are widths and heights."""
    iou, anchor = np.zeros(len(box_wh)), np.zeros(len(box_wh), np.int64)
    for start in range(0, len(box_wh), CHUNK):
        similar = _shape_iou(box_wh[start : start + CHUNK], anchors_wh)
        iou[start : start + CHUNK], anchor[start : start + CHUNK] = similar.max(axis=1), similar.argmax(axis=1)
    return BestAnchors(iou, anchor)


def _shape_iou(box_wh: np.ndarray, anchors_wh: np.ndarray) -> np.ndarray:
    """Compute the IoU of sizes with a common center, as in training: (N, 2), (K, 2) -> (N, K)."""
    boxes, anchors = (torch.from_numpy(np.array(sizes, np.float64, order="C")) for sizes in (box_wh, anchors_wh))
    return wh_iou(boxes, anchors).numpy()


def check_sizes(box_wh: np.ndarray) -> None:
    """Raise DataError if there are no boxes, or if a width or height is not a finite number above 0."""
    if not len(box_wh):
        raise DataError("anchors: expected boxes that are not crowds, found none")
    wrong = np.flatnonzero(~(np.isfinite(box_wh) & (box_wh > 0)).all(axis=1))
    if len(wrong):
        first = box_wh[wrong[0]].tolist()
        raise DataError(
            f"anchors: expected widths and heights above 0, found {len(wrong)} others of {len(box_wh)}; the first, "
            f"box {wrong[0]}, is {first[0]:g}x{first[1]:g}"
        )


# --- k-means -------------------------------------------------------------------------------------


def kmeans_anchors(box_wh: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Compute anchors by k-means with the distance 1 - IoU (YOLO9000, section 2).

    Each anchor is the median width and height of its cluster. The initialization is k-means++ (Arthur and Vassilvitskii
    2007). Of RESTARTS runs, the one with the highest mean IoU is returned. The result does not depend on the order of
    the boxes.

    Args:
        box_wh: (N, 2) widths and heights in input pixels.
        count: Number of anchors.
        seed: Seed of the random initialization.

    Returns:
        (count, 2) widths and heights, ascending by area.

    Raises:
        DataError: There are no boxes, a size is not above 0, or there are fewer distinct sizes than anchors.
    """
    check_sizes(box_wh)
    ordered = np.asarray(box_wh, np.float64)
    ordered = ordered[np.lexsort((ordered[:, 1], ordered[:, 0]))]
    rng = np.random.default_rng(seed)
    different = np.unique(ordered, axis=0)
    if len(different) < count:
        raise DataError(f"anchors: {count} anchors need as many different box sizes, found {len(different)}")
    if len(ordered) > max(KMEANS_SAMPLE_SIZE, count):
        ordered = ordered[np.sort(rng.choice(len(ordered), max(KMEANS_SAMPLE_SIZE, count), replace=False))]
        if len(np.unique(ordered, axis=0)) < count:
            ordered = different  # nearly all boxes have the same size
    runs = [_lloyd_iterations(ordered, _kmeans_plus_plus(ordered, count, rng)) for _ in range(RESTARTS)]
    best = max(runs, key=lambda anchors: float(best_anchors(ordered, anchors).iou.mean()))
    best = np.maximum(np.round(best, DECIMALS), 10.0**-DECIMALS)
    return best[np.lexsort((best[:, 1], best[:, 0], best.prod(axis=1)))]


def _kmeans_plus_plus(box_wh: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` of the boxes, each with a probability proportional to its squared distance to the closest drawn box.

    The distance is 1 - IoU of the sizes; the first box is drawn uniformly.
    """
    chosen = [int(rng.integers(len(box_wh)))]
    nearest = np.ones(len(box_wh))
    while len(chosen) < count:
        nearest = np.minimum(nearest, 1 - _shape_iou(box_wh, box_wh[chosen[-1:]])[:, 0]).clip(min=0)
        nearest[(box_wh == box_wh[chosen[-1]]).all(axis=1)] = (
            0  # equal boxes can have a distance above 0 due to rounding
        )
        odds = nearest**2
        chosen.append(int(rng.choice(len(box_wh), p=odds / odds.sum())))
    return box_wh[chosen]


def _lloyd_iterations(box_wh: np.ndarray, anchors_wh: np.ndarray) -> np.ndarray:
    """Run Lloyd's algorithm, and return the anchors of the iteration with the highest mean IoU.

    Each anchor becomes the median of its cluster, which can reduce the mean IoU. An anchor without boxes becomes the
    box with the lowest IoU.
    """
    best_wh, best_iou = anchors_wh, -1.0
    before: np.ndarray | None = None
    for _ in range(MAX_ITERATIONS):
        iou, anchor = best_anchors(box_wh, anchors_wh)
        if iou.mean() > best_iou:
            best_wh, best_iou = anchors_wh, float(iou.mean())
        if before is not None and (anchor == before).all():
            break
        before = anchor
        anchors_wh = np.array(
            [
                np.median(box_wh[anchor == i], axis=0) if (anchor == i).any() else box_wh[iou.argmin()]
                for i in range(len(anchors_wh))
            ]
        )
    return best_wh
