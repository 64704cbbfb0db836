"""Mixup, cutmix and copies of small objects: boxes sit on what still shows, and nothing is drawn when they are off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.config.loader import parse_config
from cspdet.datasets.config import AugmentConfig
from cspdet.datasets.detection.augment import Augment
from cspdet.datasets.detection.compose import AugmentedSample
from cspdet.datasets.detection.copy_small import MAX_OVERLAP, Rect, copy_small
from cspdet.datasets.detection.mixing import cutmix, mixup, rand_bbox
from cspdet.errors import ConfigError
from cspdet.structures import Sample

SIDE = 40


def scene(
    *boxes: tuple[float, ...], value: int = 0, first_class: int = 0, crowd: tuple[bool, ...] | None = None
) -> AugmentedSample:
    """Boxes of ascending classes on an image of one value."""
    box_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    n = len(box_xyxy)
    is_crowd = np.zeros(n, bool) if crowd is None else np.array(crowd)
    image = np.full((SIDE, SIDE, 3), value, np.uint8)
    sample = Sample(image, box_xyxy, first_class + np.arange(n), is_crowd, 100 + first_class)
    return AugmentedSample(sample, (box_xyxy[:, 2:] - box_xyxy[:, :2]).prod(axis=1).astype(np.float64))


def test_mixup_by_hand():
    # 3/4 of 100 and 1/4 of 200 are 125.
    mixed = mixup(scene((1, 2, 9, 9), value=100), scene((3, 3, 8, 8), (0, 0, 4, 4), value=200, first_class=5), 0.25)
    assert (mixed.sample.image == 125).all()
    assert mixed.sample.box_xyxy.tolist() == [[1, 2, 9, 9], [3, 3, 8, 8], [0, 0, 4, 4]]
    assert mixed.sample.class_id.tolist() == [0, 5, 6]
    assert mixed.area.tolist() == [56, 25, 16]
    assert mixed.sample.image_id == 100


def test_cutmix_by_hand():
    one = scene(
        (10, 10, 30, 20),  # its right half is left: a straight cut
        (0, 0, 22, 10),  # 2 of 22 columns are left: too little
        (25, 25, 35, 35),  # untouched
        value=10,
    )
    two = scene(
        (15, 5, 35, 15),  # 5 of 20 columns are inside
        (19, 20, 39, 30),  # 1 of 20 columns
        (20, 0, 30, 10),  # outside, at the edge
        value=200,
        first_class=5,
    )
    mixed = cutmix(one, two, Rect(0, 0, 20, SIDE), min_visible=0.2).sample
    assert mixed.box_xyxy.tolist() == [[20, 10, 30, 20], [25, 25, 35, 35], [15, 5, 20, 15]]
    assert mixed.class_id.tolist() == [0, 2, 5]
    assert (mixed.image[:, :20] == 200).all()
    assert (mixed.image[:, 20:] == 10).all()
    assert (one.sample.image == 10).all()


@pytest.mark.parametrize(
    ("part", "left"),
    [
        (Rect(0, 0, 20, 20), [[10, 10, 30, 30]]),  # a corner: what is left is no rectangle
        (Rect(15, 0, 20, 40), [[10, 10, 30, 30]]),  # a strip through the middle: two rectangles
        (Rect(0, 0, 40, 15), [[10, 15, 30, 30]]),
        (Rect(0, 25, 40, 40), [[10, 10, 30, 25]]),
        (Rect(0, 0, 15, 40), [[15, 10, 30, 30]]),
        (Rect(10, 10, 30, 30), []),
        (Rect(0, 10, 26, 30), [[26, 10, 30, 30]]),  # a fifth of it, just enough
        (Rect(0, 10, 27, 30), []),
        (Rect(0, 0, 10, 40), [[10, 10, 30, 30]]),  # ends where the box begins
    ],
)
def test_what_cut_leaves_of_box(part, left):
    mixed = cutmix(scene((10, 10, 30, 30)), scene(), part, min_visible=0.2)
    assert mixed.sample.box_xyxy.tolist() == left


def test_cut_counts_what_was_cut_off_before():
    # Of 400 square pixels 160 were inside the image; the cut leaves 80, a fifth of the whole, or half of the rest.
    box = scene((0, 0, 16, 10))._replace(area=np.array([400.0]))
    part = Rect(0, 0, 8, SIDE)
    assert cutmix(box, scene(), part, min_visible=0.2).sample.box_xyxy.tolist() == [[8, 0, 16, 10]]
    assert len(cutmix(box, scene(), part, min_visible=0.21).sample.box_xyxy) == 0
    assert len(cutmix(scene(), box, part, min_visible=0.21).sample.box_xyxy) == 0


def test_crowds_stay_while_anything_of_them_shows():
    crowd = scene((10, 10, 30, 30), crowd=(True,))
    assert len(cutmix(crowd, scene(), Rect(0, 0, 28, SIDE), min_visible=0.9).sample.box_xyxy) == 1
    assert len(cutmix(crowd, scene(), Rect(0, 0, 30, SIDE), min_visible=0.9).sample.box_xyxy) == 0
    assert cutmix(scene(), crowd, Rect(0, 0, 12, SIDE), 0.9).sample.is_crowd.tolist() == [True]


def rectangles(least: int) -> st.SearchStrategy[tuple[int, int, int, int]]:
    pair = (
        st.tuples(st.integers(0, SIDE), st.integers(0, SIDE))
        .map(sorted)
        .filter(lambda ends: ends[1] - ends[0] >= least)
    )
    return st.tuples(pair, pair).map(lambda ends: (ends[0][0], ends[1][0], ends[0][1], ends[1][1]))


def tight(mask: np.ndarray) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@given(first=rectangles(1), other=rectangles(1), part=rectangles(0), min_visible=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_cutmix_agrees_with_counted_pixels(first, other, part, min_visible):
    one, two = scene(first), scene(other, first_class=1)
    one.sample.image[first[1] : first[3], first[0] : first[2], 0] = 255
    two.sample.image[other[1] : other[3], other[0] : other[2], 1] = 255
    mixed = cutmix(one, two, Rect(*part), min_visible).sample
    expected = []
    for channel, box in enumerate((first, other)):
        mask = mixed.image[..., channel] == 255
        if not mask.any() or mask.sum() < min_visible * (box[2] - box[0]) * (box[3] - box[1]):
            continue
        left = tight(mask)
        whole = (left[2] - left[0]) * (left[3] - left[1]) == mask.sum()
        left = left if whole else box
        if min(left[2] - left[0], left[3] - left[1]) >= 2:
            expected.append([*left, channel])
    assert [[*box, c] for box, c in zip(mixed.box_xyxy.tolist(), mixed.class_id.tolist(), strict=True)] == expected


def test_parts_take_every_fraction_of_the_image():
    fractions = []
    for seed in range(200):
        x1, y1, x2, y2 = rand_bbox((30, 60), np.random.default_rng(seed))
        assert 0 <= x1 <= x2 <= 60
        assert 0 <= y1 <= y2 <= 30
        fractions.append((x2 - x1) * (y2 - y1) / 1800)
    assert min(fractions) < 0.05
    assert 0.2 < np.mean(fractions) < 0.45  # a half, less what lies outside
    assert max(fractions) > 0.6


# --- through the augmentation --------------------------------------------------------------------


def noisy_source(count: int = 5) -> list[Sample]:
    rng = np.random.default_rng(0)
    image = [rng.integers(0, 256, (50, 60, 3), np.uint8) for _ in range(count)]
    boxes = np.array([[5, 5, 30, 40], [28, 10, 50, 30]], np.float32)
    return [Sample(image[i], boxes + i, np.array([i, i]), np.zeros(2, bool), i) for i in range(count)]


VARIED = {"scale": (0.5, 1.5), "rotate": 5.0, "translate": 0.1, "hue": 0.1, "flip_horizontal": 0.5}


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), mosaic=st.sampled_from([0.0, 0.5]))
def test_mixup_is_two_augmented_images(seed, mosaic):
    source, plain = noisy_source(), Augment(AugmentConfig(mosaic=mosaic, **VARIED), (64, 64))
    mixed = Augment(AugmentConfig(mosaic=mosaic, mixup=1.0, mixup_alpha=2.0, **VARIED), (64, 64))(
        source, 1, np.random.default_rng(seed)
    )
    rng = np.random.default_rng(seed)
    first = plain(source, 1, rng)
    rng.random()
    second = plain(source, int(rng.integers(5)), rng)
    weight = rng.beta(2.0, 2.0)
    assert mixed.box_xyxy.tolist() == [*first.box_xyxy.tolist(), *second.box_xyxy.tolist()]
    assert mixed.class_id.tolist() == [*first.class_id.tolist(), *second.class_id.tolist()]
    blended = (1 - weight) * first.image + weight * second.image
    assert np.abs(mixed.image - blended).max() <= 0.51
    assert mixed.image_id == 1


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), mixup=st.sampled_from([0.0, 0.5]), copies=st.integers(0, 2))
def test_boxes_stay_inside(seed, mixup, copies):
    config = AugmentConfig(mosaic=0.5, mixup=mixup, cutmix=0.5, copy_small=copies, min_visible=0.1, **VARIED)
    sample = Augment(config, (48, 64))(noisy_source(), 2, np.random.default_rng(seed))
    assert sample.image.shape == (48, 64, 3)
    assert (sample.box_xyxy >= 0).all()
    assert (sample.box_xyxy <= (64, 48, 64, 48)).all()
    assert (sample.box_xyxy[:, 2:] - sample.box_xyxy[:, :2] >= 2).all()
    assert len(sample.box_xyxy) == len(sample.class_id) == len(sample.is_crowd)


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_what_is_off_draws_nothing(mosaic):
    rng, known = np.random.default_rng(3), np.random.default_rng(3)
    Augment(AugmentConfig(mosaic=mosaic), (64, 64))(noisy_source(), 0, rng)
    known.random()  # mosaic or not
    if mosaic:
        known.integers(5, size=3)
        known.random(2)  # where they meet
    known.random(8)  # the view
    assert rng.bit_generator.state == known.bit_generator.state


@pytest.mark.parametrize("changes", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 0.5}])
def test_single_images_are_not_mixed(changes):
    source = noisy_source()
    config = AugmentConfig(mosaic=1.0, **changes)
    alone = Augment(config, (64, 64))(source, 0, np.random.default_rng(1), mosaic=False)
    plain = Augment(AugmentConfig(), (64, 64))(source, 0, np.random.default_rng(1), mosaic=False)
    assert np.array_equal(alone.image, plain.image)
    assert np.array_equal(alone.box_xyxy, plain.box_xyxy)


def test_image_is_mixed_in_one_way():
    with pytest.raises(ConfigError, match=r"mixup \+ cutmix up to 1 .*, found 1\.2"):
        parse_config({"mixup": 0.6, "cutmix": 0.6}, AugmentConfig, "here")
    assert AugmentConfig(mixup=0.5, cutmix=0.5).cutmix == 0.5


# --- copies --------------------------------------------------------------------------------------


def painted(*boxes: tuple[int, int, int, int], size: int = 96, crowd: tuple[bool, ...] | None = None) -> Sample:
    """Each box filled with a color of its own, 50, 90, ..., on black."""
    image = np.zeros((size, size, 3), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = 50 + 40 * i
    n = len(boxes)
    is_crowd = np.zeros(n, bool) if crowd is None else np.array(crowd)
    return Sample(image, np.array(boxes, np.float32).reshape(-1, 4), np.arange(n), is_crowd, 7)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    shared = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod()
    return float(shared / min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), copies=st.integers(1, 4))
def test_copies_show_their_object_at_free_places(seed, copies):
    sample = painted((10, 10, 18, 20), (50, 40, 90, 90), (30, 5, 36, 11))
    before = sample.image.copy()
    made = copy_small(sample, np.array([True, False, True]), copies, np.random.default_rng(seed))
    assert np.array_equal(sample.image, before)
    assert np.array_equal(made.box_xyxy[:3], sample.box_xyxy)
    assert made.class_id.tolist()[:3] == [0, 1, 2]
    assert set(made.class_id[3:].tolist()) <= {0, 2}
    assert 0 < len(made.class_id) - 3 <= 2 * copies
    for i, (box, number) in enumerate(zip(made.box_xyxy[3:], made.class_id[3:].tolist(), strict=True)):
        x1, y1, x2, y2 = box.astype(int).tolist()
        assert box.tolist() == [x1, y1, x2, y2]  # whole pixels, as the object's own box
        assert 0 <= x1 < x2 <= 96
        assert 0 <= y1 < y2 <= 96
        ratio = (x2 - x1) * (y2 - y1) / (80 if number == 0 else 36)
        assert 0.5 <= ratio <= 1.6  # 0.8 to 1.2 each way, and the rounding
        own = (made.image[y1:y2, x1:x2] == 50 + 40 * number).all(axis=2)
        later = made.box_xyxy[4 + i :]
        assert own.all() or any(overlap(box, other) > 0 for other in later)
    for i in range(3, len(made.box_xyxy)):
        for j in range(i):
            assert overlap(made.box_xyxy[i], made.box_xyxy[j]) <= MAX_OVERLAP + 1e-6  # of float32


def test_fractions_of_pixels_move_with_their_object(monkeypatch):
    monkeypatch.setattr("cspdet.datasets.detection.copy_small.COPY_SCALE_RANGE", (1.0, 1.0))
    sample = painted((10, 10, 20, 20))
    sample = Sample(
        sample.image, np.array([[10.25, 10.5, 19.5, 19.75]], np.float32), sample.class_id, sample.is_crowd, 7
    )
    made = copy_small(sample, np.array([True]), 1, np.random.default_rng(0))
    moved = made.box_xyxy[1] - sample.box_xyxy[0]
    assert moved.tolist() == [moved[0], moved[1]] * 2
    x, y = (made.box_xyxy[1, :2] - (0.25, 0.5)).astype(int).tolist()
    assert (made.image[y : y + 10, x : x + 10] == 50).all()


def test_neither_crowds_nor_hidden_objects_are_copied():
    def count(sample: Sample) -> int:
        small = np.ones(len(sample.class_id), bool)
        return len(copy_small(sample, small, 5, np.random.default_rng(0)).class_id) - len(sample.class_id)

    assert count(painted((10, 10, 20, 20))) == 5
    assert count(painted((10, 10, 20, 20), crowd=(True,))) == 0
    assert count(painted((10, 10, 20, 20), (10, 14, 20, 24))) == 0  # 6 of 10 rows are shared
    assert count(painted((10, 10, 20, 20), (10, 18, 20, 28))) == 10  # 2 of 10
    assert count(painted()) == 0


def test_without_free_place_there_is_no_copy():
    # The five boxes tile the image: a copy would hide more than 0.3 of itself or of one of them anywhere.
    full = painted((10, 10, 20, 20), (0, 20, 96, 96), (20, 0, 96, 20), (0, 0, 10, 20), (10, 0, 20, 10))
    made = copy_small(full, np.arange(5) == 0, 8, np.random.default_rng(0))
    assert len(made.class_id) == 5
    whole = painted((0, 0, 8, 8), size=8)
    assert len(copy_small(whole, np.array([True]), 8, np.random.default_rng(0)).class_id) == 1


@pytest.mark.parametrize(("side", "copied"), [(15.9, 0), (16.1, 1)])
def test_small_is_meant_in_pixels_of_the_input(side, copied):
    # 96x96 doubles in 192x192: the box of 8x8 is 16x16 there.
    config = AugmentConfig(copy_small=1, copy_small_side=side)
    sample = Augment(config, (192, 192))([painted((10, 10, 18, 18))], 0, np.random.default_rng(0))
    assert len(sample.box_xyxy) == 1 + copied
