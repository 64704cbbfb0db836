"""Large pictures in overlapping tiles, and what was found in these put together again: pure functions.

A tile sees an object that crosses its border as a fragment: a box that touches the border. A fragment is dropped
where a whole box of its class covers it, and joined with its counterpart where the two tiles agree on the strip that
both of them saw. What remains goes through class-wise NMS as the boxes of one picture do; between tiles, which show
the same object at another size or place in the network's grid and so with another box, it is stricter.
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

BORDER_TOLERANCE = 0.01  # a box is a fragment when it comes this close to an inner border, of the tile's side ...
BORDER_TOLERANCE_PIXELS = 2.0  # ... or this close in pixels
MIN_COVERED_FRACTION = 0.7  # a fragment belongs to a whole box that holds this share of it
MIN_FRAGMENT_IOU = 0.5  # two fragments belong together when their parts in the shared strip overlap with this IoU
CROSS_TILE_NMS_IOU = 0.45  # the highest overlap that two boxes from different tiles may have
MAX_CANDIDATES = 4000  # of all tiles, the best; merging compares every two of a class


class Tile(NamedTuple):
    """A part of a picture, in its pixels."""

    x1: int
    y1: int
    x2: int
    y2: int

    @classmethod
    def from_image_size(cls, size_hw: tuple[int, int]) -> Tile:
        """The tile that is the picture."""
        return cls(0, 0, size_hw[1], size_hw[0])


def tile_grid(size_hw: tuple[int, int], tile_hw: tuple[int, int], overlap: float) -> list[Tile]:
    """Tiles of `side_hw` that cover a picture of `size_hw` (height, width), row by row.

    Neighbours share at least `overlap` (0 to 0.9) of a side; the picture's surplus is spread over all of them. A
    picture that is no larger than a tile in a direction has one tile there, of its own length.
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


def merge_tiles(
    parts: Sequence[tuple[Tile, Detections]], size_hw: tuple[int, int], config: PostprocessConfig
) -> Detections:
    """What was found in tiles of a picture of `size_hw`, each in pixels of its tile, as detections in the picture.

    The picture as a whole may be one of the tiles. The result does not depend on the order of the tiles.
    """
    box, score, class_id, tile = _sort_candidates(parts)
    fragment = _touches_tile_border(box, tile, size_hw)
    boxes, scores, classes = [box[:0]], [score[:0]], [class_id[:0]]
    for class_index in class_id.unique().tolist():
        here = class_id == class_index
        one = _resolve_fragments(box[here], score[here], tile[here], fragment[here])
        order = one[1].sort(descending=True, stable=True).indices
        one_box, one_score, one_tile = (values[order] for values in one)
        kept = _greedy_nms(one_box, one_tile, config.nms_iou)
        boxes.append(one_box[kept])
        scores.append(one_score[kept])
        classes.append(torch.full((len(kept),), class_index, dtype=torch.int64))
    found = torch.cat(boxes), torch.cat(scores), torch.cat(classes)
    best = found[1].sort(descending=True, stable=True).indices[: config.max_detections]
    return Detections(found[0][best].float(), found[1][best].float(), found[2][best])


def _sort_candidates(parts: Sequence[tuple[Tile, Detections]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (N, 4) in the picture, scores (N,), classes (N,) and tiles (N, 4) of all parts, in float64.

    Best first, and equal scores by their class, box and tile, so that the order of the parts leaves no trace.
    """
    rows = [torch.zeros(0, 10, dtype=torch.float64)]
    for tile, found in parts:
        shift = torch.tensor([tile.x1, tile.y1] * 2, dtype=torch.float64)
        columns = (-found.score.double()[:, None], found.class_id.double()[:, None], found.box_xyxy.double() + shift)
        rows.append(torch.cat((*columns, torch.tensor(tile, dtype=torch.float64).expand(len(found), 4)), dim=1))
    table = torch.cat(rows)
    for column in reversed(range(table.shape[1])):
        table = table[table[:, column].sort(stable=True).indices]
    table = table[:MAX_CANDIDATES]
    return table[:, 2:6], -table[:, 0], table[:, 1].long(), table[:, 6:]


def _touches_tile_border(box_xyxy: Tensor, tile_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(N,) whether a box comes close to a border of its tile that is not the picture's border as well."""
    height, width = size_hw
    image_xyxy = torch.tensor([0, 0, width, height], dtype=torch.float64)
    side = (tile_xyxy[:, 2:] - tile_xyxy[:, :2]).repeat(1, 2)
    near = (box_xyxy - tile_xyxy).abs() <= (BORDER_TOLERANCE * side).clamp(min=BORDER_TOLERANCE_PIXELS)
    return (near & (tile_xyxy != image_xyxy)).any(dim=1)


def _greedy_nms(box: Tensor, tile: Tensor, nms_iou: float) -> list[int]:
    """Greedy NMS of boxes (N, 4) of one class, best first: the indices of those that stay."""
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
    """Boxes, scores and tiles of one class, where fragments gave way to whole boxes or were joined.

    What was joined comes from no tile, and has its own box in the place of one.
    """
    whole = ~fragment
    piece = box[fragment]
    covered = intersection(piece[:, None], box[whole][None]) / area(piece).clamp(min=1e-9)[:, None]
    left = ~(covered >= MIN_COVERED_FRACTION).any(dim=1)
    joined_box, joined_score = _merge_fragments(piece[left], score[fragment][left], tile[fragment][left])
    boxes, scores = torch.cat((box[whole], joined_box)), torch.cat((score[whole], joined_score))
    return boxes, scores, torch.cat((tile[whole], joined_box))


def _merge_fragments(box: Tensor, score: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
    """Hull and best score of every group of fragments that are linked by agreement."""
    strip = torch.cat(
        (torch.maximum(tile[:, None, :2], tile[None, :, :2]), torch.minimum(tile[:, None, 2:], tile[None, :, 2:])), -1
    )
    low, high = strip[..., :2], strip[..., 2:]
    mine = torch.cat((torch.maximum(box[:, None, :2], low), torch.minimum(box[:, None, 2:], high)), dim=-1)
    shared = (high > low).all(dim=-1)
    different = (tile[:, None] != tile[None]).any(dim=-1)
    linked = shared & different & (iou(mine, mine.transpose(0, 1)) >= MIN_FRAGMENT_IOU)
    group = torch.arange(len(box))
    while True:  # everyone takes the lowest number among its neighbours, until nothing changes
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
