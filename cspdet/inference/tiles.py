"""Division of large images into overlapping tiles, and merging of the detections of the tiles.

If an object crosses the border of a tile, the detector returns a fragment: a box that touches the border. A fragment is
dropped if a complete box of the same class covers it. Two fragments are joined if their parts in the strip that their
tiles share have a high IoU. Class-wise NMS is applied to the remaining boxes. The NMS threshold is lower for boxes from
different tiles, because the boxes of an object differ more between tiles than within a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cspdet.boxes import area, intersection, iou
from cspdet.models.config import PostprocessConfig
from cspdet.structures import Detections

# A box is a fragment if its distance to an inner border is below this fraction of the tile's side, or this many pixels.
BORDER_TOLERANCE = 0.01
BORDER_TOLERANCE_PIXELS = 2.0
MIN_COVERED_FRACTION = 0.7  # a fragment is dropped if a complete box covers this fraction of it
MIN_FRAGMENT_IOU = 0.5  # two fragments are joined if their IoU within the shared strip is at least this
CROSS_TILE_NMS_IOU = 0.45  # NMS IoU threshold of boxes from different tiles, unless `nms_iou` is lower
MAX_CANDIDATES = 4000  # maximum number of boxes of all tiles: merging compares all pairs of a class


class Tile(NamedTuple):
    """A rectangular region of an image, in image pixels."""

    x1: int
    y1: int
    x2: int
    y2: int

    @classmethod
    def from_image_size(cls, size_hw: tuple[int, int]) -> Tile:
        """Return a tile that covers the whole image."""
        return cls(0, 0, size_hw[1], size_hw[0])


def tile_grid(size_hw: tuple[int, int], tile_hw: tuple[int, int], overlap: float) -> list[Tile]:
    """Compute tiles that cover an image, in row-major order.

    If the image is not larger than a tile along an axis, there is one tile along this axis, with the size of the image.

    Args:
        size_hw: Height and width of the image.
        tile_hw: Height and width of a tile.
        overlap: Minimum overlap of adjacent tiles as a fraction of their side, from 0 to 0.9. The tiles are evenly
            spaced, so the overlap may be larger.
    """
    if min(size_hw) < 1 or min(tile_hw) < 1 or not 0 <= overlap <= 0.9:
        raise ValueError(f"expected sizes of 1 or more and an overlap from 0 to 0.9; got {size_hw} {tile_hw} {overlap}")
    rows, columns = (_spans(length, side, overlap) for length, side in zip(size_hw, tile_hw, strict=True))
    return [Tile(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]


def _spans(length: int, side: int, overlap: float) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    step = max(1, math.floor(side * (1 - overlap)))
    count = math.ceil((length - side) / step) + 1
    starts = [i * (length - side) // (count - 1) for i in range(count)]
    return [(start, start + side) for start in starts]


def _merge_one_class(
    box: Tensor, score: Tensor, tile: Tensor, fragment: Tensor, max_iou: float
) -> tuple[Tensor, Tensor]:
    """Merge the boxes of one class from all tiles: drop or join fragments, and apply NMS.

    Returns:
        Boxes and scores, sorted by descending score.
    """
    candidates = _resolve_fragments(box, score, tile, fragment)
    order = candidates[1].sort(descending=True, stable=True).indices
    box, score, tile = (values[order] for values in candidates)
    kept = _greedy_nms(box, tile, max_iou)
    return box[kept], score[kept]


def merge_tiles(
    parts: Sequence[tuple[Tile, Detections]], size_hw: tuple[int, int], config: PostprocessConfig
) -> Detections:
    """Merge the detections of the tiles of an image; return them in image pixels, sorted by descending score.

    Args:
        parts: Tiles and their detections in tile pixels, in any order; the whole image may be one of the tiles.
        size_hw: Height and width of the image.
        config: NMS threshold and maximum number of detections.
    """
    box, score, class_id, tile = _sort_candidates(parts)
    fragment = _touches_tile_border(box, tile, size_hw)
    boxes, scores, classes = [box[:0]], [score[:0]], [class_id[:0]]
    for class_index in class_id.unique().tolist():
        here = class_id == class_index
        merged = _merge_one_class(box[here], score[here], tile[here], fragment[here], config.nms_iou)
        boxes.append(merged[0])
        scores.append(merged[1])
        classes.append(torch.full((len(merged[1]),), class_index, dtype=torch.int64))
    all_boxes, all_scores, all_classes = torch.cat(boxes), torch.cat(scores), torch.cat(classes)
    best = all_scores.sort(descending=True, stable=True).indices[: config.max_detections]
    return Detections(all_boxes[best].float(), all_scores[best].float(), all_classes[best])


def _sort_candidates(parts: Sequence[tuple[Tile, Detections]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Collect the detections of all tiles in float64.

    The detections are sorted by score, class, box and tile, so that the result does not depend on the order of the
    tiles.

    Returns:
        Boxes (N, 4) in image pixels, scores (N,), classes (N,) and tiles (N, 4).
    """
    rows = [torch.zeros(0, 10, dtype=torch.float64)]
    for tile, part in parts:
        shift = torch.tensor([tile.x1, tile.y1] * 2, dtype=torch.float64)
        columns = (-part.score.double()[:, None], part.class_id.double()[:, None], part.box_xyxy.double() + shift)
        rows.append(torch.cat((*columns, torch.tensor(tile, dtype=torch.float64).expand(len(part), 4)), dim=1))
    table = torch.cat(rows)
    for column in reversed(range(table.shape[1])):
        table = table[table[:, column].sort(stable=True).indices]
    table = table[:MAX_CANDIDATES]
    return table[:, 2:6], -table[:, 0], table[:, 1].long(), table[:, 6:]


def _touches_tile_border(box_xyxy: Tensor, tile_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return an (N,) bool mask of the boxes close to a border of their tile that is not a border of the image."""
    height, width = size_hw
    image_xyxy = torch.tensor([0, 0, width, height], dtype=torch.float64)
    side = (tile_xyxy[:, 2:] - tile_xyxy[:, :2]).repeat(1, 2)
    near = (box_xyxy - tile_xyxy).abs() <= (BORDER_TOLERANCE * side).clamp(min=BORDER_TOLERANCE_PIXELS)
    return (near & (tile_xyxy != image_xyxy)).any(dim=1)


def _greedy_nms(box: Tensor, tile: Tensor, nms_iou: float) -> list[int]:
    """Apply greedy NMS to boxes (N, 4) of one class, sorted by descending score; return the indices of kept boxes.

    The IoU threshold is `nms_iou` for boxes of the same tile, and at most CROSS_TILE_NMS_IOU for boxes of different
    tiles.
    """
    kept: list[int] = []
    left = torch.ones(len(box), dtype=torch.bool)
    for index in range(len(box)):
        if left[index]:
            kept.append(index)
            same = (tile == tile[index]).all(dim=1)
            limit = torch.where(same, nms_iou, min(nms_iou, CROSS_TILE_NMS_IOU))
            left &= iou(box, box[index]) <= limit
    return kept


def _resolve_fragments(box: Tensor, score: Tensor, tile: Tensor, fragment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Drop fragments that a complete box of the class covers; join others that match across tiles.

    Returns:
        Boxes (K, 4), scores (K,) and tiles (K, 4). A joined box does not belong to one tile: its tile is the box
        itself.
    """
    whole = ~fragment
    fragment_box = box[fragment]
    covered = intersection(fragment_box[:, None], box[whole][None]) / area(fragment_box).clamp(min=1e-9)[:, None]
    kept = ~(covered >= MIN_COVERED_FRACTION).any(dim=1)
    joined_box, joined_score = _merge_fragments(fragment_box[kept], score[fragment][kept], tile[fragment][kept])
    boxes, scores = torch.cat((box[whole], joined_box)), torch.cat((score[whole], joined_score))
    return boxes, scores, torch.cat((tile[whole], joined_box))


def _merge_fragments(box: Tensor, score: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
    """Join fragments from overlapping tiles whose parts in the overlap have a high IoU.

    Returns:
        (K, 4) enclosing box, and (K,) highest score, of each group of joined fragments.
    """
    strip = torch.cat(
        (torch.maximum(tile[:, None, :2], tile[None, :, :2]), torch.minimum(tile[:, None, 2:], tile[None, :, 2:])), -1
    )
    low, high = strip[..., :2], strip[..., 2:]
    clipped = torch.cat((torch.maximum(box[:, None, :2], low), torch.minimum(box[:, None, 2:], high)), dim=-1)
    shared = (high > low).all(dim=-1)
    different = (tile[:, None] != tile[None]).any(dim=-1)
    linked = shared & different & (iou(clipped, clipped.transpose(0, 1)) >= MIN_FRAGMENT_IOU)
    group = torch.arange(len(box))
    while True:  # connected components: each fragment takes the lowest group index of its neighbors, until none changes
        lowest = torch.where(linked, group[None], group[:, None]).amin(dim=1) if len(box) else group
        lowest = torch.minimum(lowest, group)
        if torch.equal(lowest, group):
            break
        group = lowest
    enclosing_boxes, best = [box[:0]], [score[:0]]
    for group_id in group.unique().tolist():
        members = group == group_id
        enclosing_boxes.append(torch.cat((box[members, :2].amin(dim=0), box[members, 2:].amax(dim=0)))[None])
        best.append(score[members].amax()[None])
    return torch.cat(enclosing_boxes), torch.cat(best)
