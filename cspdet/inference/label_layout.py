"""Positions of the labels of boxes: labels do not cover each other, and hide little of the objects.

All coordinates are integer image pixels. A rectangle is (x1, y1, x2, y2); x2 and y2 are exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Costs of the main positions; the cost of hiding a whole box is 1.
PREFERENCE = 0.02  # of each further position
MOVED = 0.1  # of a position that has to be moved into the image
MAX_NEARBY = 32  # beside more labels than these, only the main positions of a box are tried


def place_labels(
    boxes: np.ndarray, sizes: np.ndarray, image_wh: tuple[int, int], occupied: Sequence[tuple[int, int, int, int]] = ()
) -> np.ndarray:
    """Place the labels of boxes one after another. Every label touches its box or is inside of it.

    A label takes a position that covers no earlier label. If several positions are free, it takes the one that hides
    the smallest fraction of the boxes. If no position is free, it takes the one that covers the smallest area of
    earlier labels.

    Args:
        boxes: (N, 4) boxes inside the image, at least one pixel large.
        sizes: (N, 2) width and height of each label, not larger than the image.
        image_wh: Width and height of the image.
        occupied: Further rectangles that count as earlier labels.

    Returns:
        (N, 2) int64, left and upper side of each label. All labels are inside the image.
    """
    layout = _Layout(np.asarray(boxes, np.int64).reshape(-1, 4), image_wh, occupied)
    layout.place(np.asarray(sizes, np.int64).reshape(-1, 2))
    return layout.labels[len(occupied) :, :2]


class _Layout:
    """Boxes, and the labels that are placed so far."""

    def __init__(self, boxes: np.ndarray, image_wh: tuple[int, int], occupied: Sequence[tuple[int, int, int, int]]):
        self.boxes, self.image_wh, self.num_boxes = boxes, image_wh, len(boxes)
        self.pixel_fractions = 1 / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)  # of a box
        occupied_xyxy = np.asarray(occupied, np.int64).reshape(-1, 4)
        # boxes, occupied rectangles, and room for one label per box
        self._rectangles = np.concatenate((boxes, occupied_xyxy, np.zeros_like(boxes)))
        self._count = self.num_boxes + len(occupied)

    @property
    def labels(self) -> np.ndarray:
        """(K, 4) occupied rectangles and labels."""
        return self._rectangles[self.num_boxes : self._count]

    def place(self, sizes: np.ndarray) -> None:
        """Place one label of (N, 2) `sizes` per box."""
        main = _main_positions(self.boxes, sizes)
        inside = np.clip(main, 0, (np.array(self.image_wh) - sizes)[:, None])
        costs = PREFERENCE * np.arange(main.shape[1]) + MOVED * (main != inside).any(axis=2)
        for box, size, positions, cost in zip(self.boxes, sizes, inside, costs, strict=True):
            corner = self._choose(box, size, positions, cost)
            self._rectangles[self._count] = (*corner, *(corner + size))
            self._count += 1

    def _choose(self, box: np.ndarray, size: np.ndarray, positions: np.ndarray, costs: np.ndarray) -> np.ndarray:
        low, high = positions.min(axis=0), positions.max(axis=0) + size
        known = self._rectangles[: self._count]
        near = np.flatnonzero(((known[:, :2] < high) & (known[:, 2:] > low)).all(axis=1))
        num_boxes = int(np.searchsorted(near, self.num_boxes))
        shared = _shared_areas(positions, size, known[near])
        covered = shared[:, num_boxes:].sum(axis=1)
        hidden = shared[:, :num_boxes] @ self.pixel_fractions[near[:num_boxes]]
        best = positions[np.lexsort((hidden + costs, covered))[0]]
        return best if covered.min() == 0 else _search_sides(best, box, size, self.image_wh, self.labels)


def _main_positions(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the (N, 12, 2) preferred positions of N labels, best first. Some positions may be outside the image."""
    (x1, y1, x2, y2), (width, height) = boxes.T, sizes.T
    left, right, above, below = x2 - width, x2, y1 - height, y2
    corners = (
        *((x1, above), (x1, below), (x1, y1), (x1, y2 - height)),
        *((left, above), (left, below), (left, y1), (left, y2 - height)),
        *((right, y1), (x1 - width, y1), (right, y2 - height), (x1 - width, y2 - height)),
    )
    return np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)


def _shared_areas(positions: np.ndarray, size: np.ndarray, rectangles: np.ndarray) -> np.ndarray:
    """Compute the (K, M) areas in pixels that a label of this size at K positions shares with M rectangles."""
    low, high = positions[:, None], (positions + size)[:, None]
    shared = np.maximum(np.minimum(high, rectangles[:, 2:]) - np.maximum(low, rectangles[:, :2]), 0)
    return shared[..., 0] * shared[..., 1]


def _search_sides(
    best: np.ndarray, box: np.ndarray, size: np.ndarray, image_wh: tuple[int, int], labels: np.ndarray
) -> np.ndarray:
    """Find the position along the sides of a box at which a label covers the smallest area of other labels.

    If no position is better than `best`, return `best`. Only positions at an end of a side or at an end of another
    label are tried: if any position along a side is free, one of these positions is free.
    """
    reach = np.concatenate((box[:2] - size, box[2:] + size))
    nearby = labels[(labels[:, :2] < reach[2:]).all(axis=1) & (labels[:, 2:] > reach[:2]).all(axis=1)]
    if len(nearby) > MAX_NEARBY:
        return best
    x = _stops(box[0::2], size[0], image_wh[0], nearby[:, 0::2])
    y = _stops(box[1::2], size[1], image_wh[1], nearby[:, 1::2])
    rows = np.array([box[1] - size[1], box[3], box[1], box[3] - size[1]])  # above, below, inside
    columns = np.array([box[2], box[0] - size[0]])  # beside
    pairs = [best[None], *(np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2) for axes in ((x, rows), (columns, y)))]
    positions = np.concatenate(pairs)
    positions = positions[((positions >= 0) & (positions + size <= image_wh)).all(axis=1)]
    return positions[_shared_areas(positions, size, nearby).sum(axis=1).argmin()]


def _stops(side: np.ndarray, length: int, image_length: int, nearby: np.ndarray) -> np.ndarray:
    """Return candidate positions of a label along one axis of a box.

    At each position, the label and the box overlap along this axis by at least half of the shorter one of them.

    Args:
        side: Start and end of the box.
        length: Length of the label.
        image_length: Length of the image.
        nearby: (M, 2) start and end of the labels nearby.
    """
    faced = min(length, side[1] - side[0] + 1) // 2
    low, high = max(0, side[0] - length + faced), min(image_length - length, side[1] - faced)
    stops = np.concatenate((nearby[:, 1], nearby[:, 0] - length, [low, high, side[0], side[1] - length]))
    return stops[(stops >= low) & (stops <= high)]
