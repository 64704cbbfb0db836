"""Tiles: they cover the image, and a detector that sees everything finds each object once, whatever is cut."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.errors import ConfigError
from cspdet.inference.slicing import SlicedDetector, Tiling, parse_class_filter
from cspdet.inference.tiles import Tile, merge_tiles, tile_grid
from cspdet.models.config import PostprocessConfig
from cspdet.structures import Detections

Box = tuple[float, float, float, float]


def detections(boxes: list[Box], scores: list[float] | None = None, class_ids: list[int] | None = None) -> Detections:
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores if scores is not None else [0.9] * len(boxes)),
        torch.tensor(class_ids if class_ids is not None else [0] * len(boxes), dtype=torch.int64),
    )


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    side=st.tuples(st.integers(8, 300), st.integers(8, 300)),
    overlap=st.floats(0, 0.9),
)
def test_tiles_cover_the_image_and_overlap_as_requested(size, side, overlap):
    tiles = tile_grid(size, side, overlap)
    seen = np.zeros(size, bool)
    for tile in tiles:
        assert 0 <= tile.x1 < tile.x2 <= size[1]
        assert 0 <= tile.y1 < tile.y2 <= size[0]
        assert (tile.y2 - tile.y1, tile.x2 - tile.x1) == (min(side[0], size[0]), min(side[1], size[1]))
        seen[tile.y1 : tile.y2, tile.x1 : tile.x2] = True
    assert seen.all()
    columns = sorted({(tile.x1, tile.x2) for tile in tiles})
    for (_, end), (start, _) in itertools.pairwise(columns):
        assert end - start >= int(overlap * side[1])


def test_a_grid_by_hand():
    # 100 pixels, tiles of 40 that share 10: 0-40, 30-70, 60-100; 40 pixels high is one row
    assert tile_grid((40, 100), (40, 40), 0.25) == [Tile(0, 0, 40, 40), Tile(30, 0, 70, 40), Tile(60, 0, 100, 40)]
    assert tile_grid((30, 20), (40, 40), 0.25) == [Tile(0, 0, 20, 30)]


@pytest.mark.parametrize(("size", "side", "overlap"), [((0, 5), (4, 4), 0), ((5, 5), (0, 4), 0), ((5, 5), (4, 4), 1.0)])
def test_grids_that_cannot_be_are_refused(size, side, overlap):
    with pytest.raises(ValueError):
        tile_grid(size, side, overlap)


def perfect(objects: list[tuple[Box, float, int]], tile: Tile) -> Detections:
    """What a detector without a fault gives in a tile: of each object the part inside it, in the tile's pixels."""
    found = []
    for (x1, y1, x2, y2), score, class_id in objects:
        inside = max(x1, tile.x1), max(y1, tile.y1), min(x2, tile.x2), min(y2, tile.y2)
        if inside[2] - inside[0] >= 1 and inside[3] - inside[1] >= 1:
            found.append((tuple(v - (tile.x1, tile.y1)[i % 2] for i, v in enumerate(inside)), score, class_id))
    found.sort(key=lambda entry: -entry[1])
    return detections(*map(list, zip(*found, strict=True))) if found else detections([])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[int, int], list[tuple[Box, float, int]]]:
    """An image of 3 x 4 cells of 80 pixels with at most one object in each: no two of them overlap."""
    objects = []
    for row in range(3):
        for column in range(4):
            if draw(st.booleans()):
                x, y = column * 80 + draw(st.integers(0, 30)), row * 80 + draw(st.integers(0, 30))
                w, h = draw(st.integers(8, 45)), draw(st.integers(8, 45))
                score = draw(st.integers(30, 99)) / 100
                objects.append(((x, y, x + w, y + h), score, draw(st.integers(0, 1))))
    return (240, 320), objects


def as_set(found: Detections) -> list[tuple]:
    rows = zip(found.box_xyxy.tolist(), found.score.tolist(), found.class_id.tolist(), strict=True)
    return sorted((*box, round(score, 4), class_id) for box, score, class_id in rows)


@settings(max_examples=30)
@given(scene=scenes(), with_whole=st.booleans(), side=st.integers(60, 130), seed=st.integers(0, 99))
def test_a_perfect_detector_on_tiles_finds_every_object_once(scene, with_whole, side, seed):
    size, objects = scene
    tiles = tile_grid(size, (side, side), 0.3) + ([Tile.from_image_size(size)] if with_whole else [])
    parts = [(tile, perfect(objects, tile)) for tile in tiles]
    merged = merge_tiles(parts, size, PostprocessConfig(nms_iou=0.6, max_detections=100))
    assert as_set(merged) == as_set(detections(*map(list, zip(*objects, strict=True))) if objects else detections([]))
    assert merged.score.tolist() == sorted(merged.score.tolist(), reverse=True)
    random.Random(seed).shuffle(parts)
    again = merge_tiles(parts, size, PostprocessConfig(nms_iou=0.6, max_detections=100))
    assert torch.equal(again.box_xyxy, merged.box_xyxy)
    assert torch.equal(again.class_id, merged.class_id)


LEFT, RIGHT = Tile(0, 0, 100, 100), Tile(80, 0, 180, 100)


def test_halves_of_an_object_are_joined_and_the_better_score_stays():
    # 50-130 is cut at 100 in the left tile and at 80 in the right one; both saw the strip 80-100 of it.
    parts = [(LEFT, detections([(50, 10, 100, 60)], [0.6])), (RIGHT, detections([(0, 12, 50, 60)], [0.8]))]
    merged = merge_tiles(parts, (100, 180), PostprocessConfig(nms_iou=0.6, max_detections=9))
    assert merged.box_xyxy.tolist() == [[50, 10, 130, 60]]
    assert merged.score.tolist() == pytest.approx([0.8])


def test_halves_of_different_classes_or_heights_stay_apart():
    boxes = ([(50, 10, 100, 60)], [(0, 12, 50, 60)], [(0, 65, 50, 99)])
    for other, kind in ((boxes[1], 1), (boxes[2], 0)):
        parts = [(LEFT, detections(boxes[0])), (RIGHT, detections(other, None, [kind]))]
        assert len(merge_tiles(parts, (100, 180), PostprocessConfig(nms_iou=0.6, max_detections=9))) == 2


def test_a_fragment_gives_way_to_the_whole_box_even_when_it_scores_higher():
    whole = Tile(0, 0, 180, 100)
    parts = [(LEFT, detections([(50, 10, 100, 60)], [0.9])), (whole, detections([(50, 10, 130, 60)], [0.4]))]
    merged = merge_tiles(parts, (100, 180), PostprocessConfig(nms_iou=0.6, max_detections=9))
    assert merged.box_xyxy.tolist() == [[50, 10, 130, 60]]


def test_two_tiles_agree_on_an_object_sooner_than_two_boxes_of_one_tile():
    # 40x40 against 40x24 inside it: IoU 0.6. In one tile two objects may overlap so, in two it is one object.
    first, second = (30, 30, 70, 70), (30, 40, 70, 64)
    apart = [(LEFT, detections([first])), (Tile(0, 0, 180, 100), detections([second], [0.5]))]
    together = [(LEFT, detections([first, second], [0.9, 0.5]))]
    counts = [
        len(merge_tiles(parts, (100, 180), PostprocessConfig(nms_iou=0.7, max_detections=9)))
        for parts in (apart, together)
    ]
    assert counts == [1, 2]


def test_a_box_inside_a_larger_one_of_its_class_stays_when_no_border_cut_it():
    parts = [(LEFT, detections([(30, 30, 50, 50)], [0.5])), (Tile(0, 0, 180, 100), detections([(10, 5, 90, 80)]))]
    assert len(merge_tiles(parts, (100, 180), PostprocessConfig(nms_iou=0.6, max_detections=9))) == 2


def test_the_border_of_the_image_cuts_nothing():
    # The small box ends at the left border of its tile, which is also that of the image: it is whole. 25/30 of it lie
    # inside another one, which would do for a fragment.
    parts = [(LEFT, detections([(0, 30, 30, 60)], [0.5])), (Tile(0, 0, 180, 100), detections([(5, 5, 90, 80)]))]
    assert len(merge_tiles(parts, (100, 180), PostprocessConfig(nms_iou=0.6, max_detections=9))) == 2


def test_no_more_than_asked_for_and_the_best():
    parts = [(LEFT, detections([(10 * i, 0, 10 * i + 8, 8) for i in range(1, 9)], [i / 10 for i in range(1, 9)]))]
    assert merge_tiles(
        parts, (100, 180), PostprocessConfig(nms_iou=0.6, max_detections=2)
    ).score.tolist() == pytest.approx([0.8, 0.7])


class SpotFinder:
    """Finds white spots of 4 pixels or more a side, but none in an image wider than 100: those are shrunk."""

    size_hw = (100, 100)

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def predict(self, x: list[np.ndarray]) -> list[Detections]:
        self.shapes += [image.shape for image in x]
        return [self._one(image) for image in x]

    @staticmethod
    def _one(image: np.ndarray) -> Detections:
        rows, columns = np.nonzero(image[..., 0] == 255)
        if image.shape[1] > 100 or not len(rows):
            return detections([])
        box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        return detections([tuple(map(float, box))], [0.7], [1])


def test_a_search_in_tiles_finds_what_is_too_small_for_the_whole():
    image = np.zeros((150, 400, 3), np.uint8)
    image[120:126, 301:309] = 255
    finder = SpotFinder()
    assert [len(found) for found in SlicedDetector().predict(finder, [image])] == [0]
    (found,) = SlicedDetector(tiling=Tiling(None)).predict(finder, [image])
    assert found.box_xyxy.tolist() == [[301, 120, 309, 126]]
    assert finder.shapes[1] == (150, 400, 3), "the whole is looked at as well"
    assert set(finder.shapes[2:]) == {(100, 100, 3)}
    assert len(SlicedDetector(class_ids=frozenset({0}), tiling=Tiling(64)).predict(finder, [image])[0]) == 0


def test_an_image_that_fits_into_one_tile_is_detected_once():
    finder = SpotFinder()
    SlicedDetector(tiling=Tiling(100)).predict(finder, [np.zeros((80, 90, 3), np.uint8)])
    assert finder.shapes == [(80, 90, 3)]


def test_in_one_tile_the_detections_are_those_of_the_detector():
    class Twice(SpotFinder):
        @staticmethod
        def _one(image: np.ndarray) -> Detections:  # their IoU is above the NMS threshold since they were clipped
            return detections([(0, 0, 40, 40), (0, 0, 40, 42)], [0.9, 0.8], [1, 1])

    image = np.zeros((80, 90, 3), np.uint8)
    in_tile, whole = (SlicedDetector(tiling=tiling).predict(Twice(), [image])[0] for tiling in (Tiling(100), None))
    assert as_set(in_tile) == as_set(whole)
    assert len(whole) == 2


def test_classes_are_kept_before_detections_are_counted():
    class Fixed:
        size_hw = (8, 8)

        def predict(self, x: list[np.ndarray]) -> list[Detections]:
            return [detections([(0, 0, 1, 1)] * 4, [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1]) for _ in x]

    search = SlicedDetector(PostprocessConfig(max_detections=1), class_ids=frozenset({1}))
    (found,) = search.predict(Fixed(), [np.zeros((8, 8, 3), np.uint8)])
    assert (found.class_id.tolist(), found.score.tolist()) == ([1], pytest.approx([0.7]))
    assert search.detector_config.max_detections >= 100
    assert SlicedDetector(PostprocessConfig(max_detections=1)).detector_config.max_detections == 1


def test_classes_by_name_and_id():
    names, ids = ("person", "Traffic light", "3"), (1, 10, 44)
    assert parse_class_filter("person", names, ids) == {0}
    assert parse_class_filter("10, PERSON", names, ids) == {0, 1}
    assert parse_class_filter("traffic light,3", names, ids) == {1, 2}, "a name goes before an id"
    with pytest.raises(ConfigError) as caught:
        parse_class_filter("persn,99", names, ids)
    assert "no class 'persn' (did you mean 'person'?)" in caught.value.problems[0]
    assert "no class '99'" in caught.value.problems[1]
