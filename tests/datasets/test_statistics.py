"""Figures of a dataset: by hand on a small set, and laws that hold on any."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cspdet.datasets.checks.statistics import GRID, DataStatistics, data_statistics
from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.structures import Categories

Box = tuple[int, tuple[float, float, float, float], int, bool]  # image, x1 y1 x2 y2, class, crowd


def make_set(sizes_hw: list[tuple[int, int]], boxes: list[Box], classes: int = 3) -> CocoDataset:
    """Images without files, and boxes in any order."""
    boxes = sorted(boxes, key=lambda box: box[0])
    count = np.bincount([box[0] for box in boxes], minlength=len(sizes_hw)).astype(np.int64)
    return CocoDataset(
        classes=Categories(tuple(f"class {i}" for i in range(classes)), tuple(range(10, 10 + classes))),
        image_id=np.arange(len(sizes_hw)),
        size_hw=np.array(sizes_hw, np.int32).reshape(-1, 2),
        names=b"",
        name_start=np.zeros(len(sizes_hw) + 1, np.int64),
        box_xyxy=np.array([box[1] for box in boxes], np.float32).reshape(-1, 4),
        box_class=np.array([box[2] for box in boxes], np.int32),
        box_crowd=np.array([box[3] for box in boxes], bool),
        box_start=np.concatenate(([0], np.cumsum(count))),
        warnings=(),
        files=SplitFiles(Path("images"), Path("boxes.json")),
    )


def figures() -> DataStatistics:
    """Three images: 320x640 (height x width) with two boxes and a crowd, 320x640 with one, 64x64 with none."""
    return data_statistics(
        make_set(
            [(320, 640), (320, 640), (64, 64)],
            [
                (0, (0, 0, 640, 320), 0, False),  # side sqrt(204800) = 452.5, aspect 2, fills its image
                (0, (0, 0, 32, 32), 2, False),  # side 32, aspect 1
                (0, (0, 0, 320, 320), 2, True),
                (1, (320, 160, 336, 224), 2, False),  # side sqrt(16 * 64) = 32, aspect 1/4
            ],
        )
    )


def test_counts_are_those_of_the_annotations():
    found = figures()
    assert (found.images, found.empty_images, found.boxes, found.crowds) == (3, 1, 4, 1)
    assert [(c.name, c.category_id, c.boxes, c.images, c.crowds) for c in found.classes] == [
        ("class 0", 10, 1, 1, 0),
        ("class 1", 11, 0, 0, 0),
        ("class 2", 12, 2, 2, 1),  # two boxes in two images; the crowd counts apart
    ]
    assert (found.classes[1].median_side, found.classes[1].median_aspect) == (None, None)
    assert (found.classes[2].median_side, found.classes[2].median_aspect) == (32.0, 0.625)  # of 1 and 1/4
    assert [(s.height, s.width, s.images) for s in found.image_sizes] == [(320, 640, 2), (64, 64, 1)]


def test_sizes_fall_into_bins_that_grow_by_the_root_of_two():
    sides = figures().sides
    # log2(32) = 5 opens a bin; 452.5 lies in [2^8.5, 2^9) = [362.04, 512): bins 5, 5.5, ... 8.5
    assert sides.edges[0] == 32.0
    assert sides.edges[-1] == 512.0
    assert np.allclose(np.diff(np.log2(sides.edges)), 0.5)
    assert sides.counts == (2, 0, 0, 0, 0, 0, 0, 1)
    assert figures().coco_sizes == {"small": 0, "medium": 2, "large": 1}  # 32 * 32 is COCO's first medium


def test_the_share_of_the_image_is_at_most_one():
    relative = figures().relative_sides
    assert relative.edges[-1] == 1.0  # the box that fills its image lies in the bin below 1
    assert relative.counts[-1] == 1
    # sqrt(1024 / 204800) = 0.0707 lies in [2^-4, 2^-3.5)
    assert (relative.edges[0], relative.counts[0]) == (0.0625, 2)


def test_squares_are_the_middle_of_their_bin():
    aspects = figures().aspects
    # aspects 1/4, 1 and 2 are the middles of the bins -4, 0 and 2 in steps of sqrt(2)
    assert aspects.counts == (1, 0, 0, 0, 1, 0, 1)
    assert np.allclose(aspects.edges, 2.0 ** ((np.arange(-4, 4) - 0.5) / 2))


def test_boxes_a_image_count_empty_images_and_no_crowds():
    found = figures().boxes_per_image
    assert found.edges == (0.0, 1.0, 2.0, 3.0)
    assert found.counts == (1, 1, 1)
    assert found.quantiles is not None
    assert found.quantiles[1] == 1.0


def test_many_boxes_a_image_share_bins():
    crowded = make_set([(64, 64), (64, 64)], [(0, (0, 0, 9, 9), 0, False)] * 100)
    found = data_statistics(crowded).boxes_per_image
    assert found.edges[:3] == (0.0, 3.0, 6.0)  # 0..100 are 101 numbers: 3 a bin leave 34 bins, 2 would be 51
    assert found.counts[0] == 1
    assert found.counts[-1] == 1
    assert found.edges[-2] <= 100 < found.edges[-1]


def test_maps_show_where_boxes_are():
    found = figures()
    assert found.centers.sum() == 3
    # centers (320, 160), (16, 16), (328, 192) of 640x320 images, in cells of 20x10: (16, 16), (0, 1), (16, 19)
    assert found.centers[16, 16] == found.centers[1, 0] == found.centers[19, 16] == 1
    # the full box covers all; (0, 0, 32, 32) covers columns 0 and 0.6 of 1 and rows 0, 1, 2 and 0.2 of 3
    assert np.isclose(found.coverage[31, 31], 1 / 3)
    assert np.isclose(found.coverage[0, 0], 2 / 3)
    assert np.isclose(found.coverage[3, 1], (1 + 0.6 * 0.2) / 3)


def test_a_split_without_boxes_has_empty_histograms():
    for sizes in ([(64, 64)], []):
        found = data_statistics(make_set(sizes, [], classes=2))
        assert found.sides.counts == found.aspects.counts == found.relative_sides.counts == ()
        assert found.sides.quantiles is None
        assert sum(found.boxes_per_image.counts) == len(sizes)
        assert not found.coverage.any()
        json.dumps(found.to_json(), allow_nan=False)


SIDES = st.integers(1, 700)
BOXES = st.lists(
    st.tuples(st.integers(0, 2), st.tuples(SIDES, SIDES, SIDES, SIDES), st.integers(0, 2), st.booleans()), max_size=20
)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=3, max_size=3), BOXES)
def test_every_figure_counts_every_box_once(sizes_hw, raw):
    boxes: list[Box] = []
    for image, (x, y, w, h), class_id, crowd in raw:
        height, width = sizes_hw[image]
        x, y = x % width, y % height
        corners = (float(x), float(y), float(min(width, x + w)), float(min(height, y + h)))
        boxes.append((image, corners, class_id, crowd))
    found = data_statistics(make_set(sizes_hw, boxes))
    objects = [box for box in boxes if not box[3]]
    for histogram in (found.sides, found.relative_sides, found.aspects):
        assert sum(histogram.counts) == len(objects)
        assert len(histogram.edges) == (len(histogram.counts) + 1 if objects else 0)
    assert sum(found.coco_sizes.values()) == found.centers.sum() == sum(c.boxes for c in found.classes) == len(objects)
    assert sum(found.boxes_per_image.counts) == 3
    fractions = [
        (x2 - x1) * (y2 - y1) / (sizes_hw[p][0] * sizes_hw[p][1]) for p, (x1, y1, x2, y2), _, _ in objects
    ]  # the mean coverage is the covered area per image
    assert np.isclose(found.coverage.sum() / GRID**2, sum(fractions) / 3)
    edges = found.sides.edges
    for (low, high), count in zip(itertools.pairwise(edges), found.sides.counts, strict=True):
        inside = [low < side < high for side in (np.sqrt((b[2] - b[0]) * (b[3] - b[1])) for _, b, _, _ in objects)]
        assert sum(inside) <= count  # those on the edge itself are rounded to either side
    json.dumps(found.to_json(), allow_nan=False)
