"""The augmentation's laws: boxes sit on what was painted, draws depend on the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cspdet.datasets.colors import HsvGains, apply_hsv
from cspdet.datasets.config import AlbumentationsTransform, AugmentConfig
from cspdet.datasets.detection.albumentations_transforms import AlbumentationsHook
from cspdet.datasets.detection.augment import Augment
from cspdet.datasets.detection.compose import affine, transform_boxes, warp_into
from cspdet.errors import ConfigError
from cspdet.letterbox import PAD_VALUE, Letterbox
from cspdet.structures import Sample

COLORS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
]  # one for each image that a mosaic asks for


def sample_of(image: np.ndarray, *boxes: tuple[float, ...], crowd: bool = False) -> Sample:
    box_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    n = len(box_xyxy)
    return Sample(image, box_xyxy, np.zeros(n, np.int64), np.full(n, crowd), image_id=7)


class PaintedSource:
    """Black images with one solid rectangle; the n-th image asked for has class n and the n-th color."""

    def __init__(self, sizes_hw: list[tuple[int, int]], boxes: list[tuple[int, int, int, int]]):
        self.sizes_hw, self.boxes, self.asked = sizes_hw, boxes, 0

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> Sample:
        number, self.asked = self.asked, self.asked + 1
        image = np.zeros((*self.sizes_hw[index], 3), np.uint8)
        x1, y1, x2, y2 = self.boxes[index]
        image[y1:y2, x1:x2] = COLORS[number]
        sample = sample_of(image, (x1, y1, x2, y2))
        return Sample(image, sample.box_xyxy, np.array([number]), sample.is_crowd, index)


def painted_box(image: np.ndarray, color: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """The tight box of the pixels that are nearer to `color` than to black, grey or another color."""
    (ys, xs) = np.nonzero(((image > 127) == (np.array(color) > 127)).all(axis=2))
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else None


@st.composite
def painted(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    height, width = draw(st.integers(24, 128)), draw(st.integers(24, 128))
    x1, y1 = draw(st.integers(0, width - 8)), draw(st.integers(0, height - 8))
    return (height, width), (x1, y1, draw(st.integers(x1 + 8, width)), draw(st.integers(y1 + 8, height)))


@settings(max_examples=60, deadline=None)
@given(
    painted_images=st.lists(painted(), min_size=1, max_size=4),
    mosaic=st.sampled_from([0.0, 1.0]),
    stretch=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_boxes_sit_on_the_painted_pixels(painted_images, mosaic, stretch, seed):
    source = PaintedSource([p[0] for p in painted_images], [p[1] for p in painted_images])
    config = AugmentConfig(
        mosaic=mosaic, scale=(0.5, 1.7), translate=0.3, flip_horizontal=0.5, flip_vertical=0.5, min_visible=0
    )
    augment = Augment(config, (96, 128), "stretch" if stretch else "letterbox")
    sample = augment(source, 0, np.random.default_rng(seed))
    for box, number in zip(sample.box_xyxy, sample.class_id, strict=True):
        found = painted_box(sample.image, COLORS[number])
        assert found is not None
        assert np.abs(box - found).max() <= 1, (box, found)
    assert len(sample.box_xyxy) == len(sample.class_id) == len(sample.is_crowd)
    # nothing that shows is without a box: what has none is narrower than three pixels, with the rounding
    for number in set(range(source.asked)) - set(sample.class_id.tolist()):
        found = painted_box(sample.image, COLORS[number])
        assert found is None or min(found[2] - found[0], found[3] - found[1]) <= 3


@settings(max_examples=30, deadline=None)
@given(painted_image=painted(), seed=st.integers(0, 2**32))
def test_boxes_hold_rotated_and_sheared_pixels_tightly(painted_image, seed):
    source = PaintedSource([painted_image[0]], [painted_image[1]])
    config = AugmentConfig(scale=(0.3, 0.5), rotate=180, shear=20, min_visible=0)
    sample = Augment(config, (160, 160))(source, 0, np.random.default_rng(seed))
    found = painted_box(sample.image, COLORS[0])
    for box in sample.box_xyxy if found else ():
        assert (box[:2] <= np.array(found[:2]) + 1.5).all()
        assert (box[2:] >= np.array(found[2:]) - 1.5).all()


def test_identity_is_the_letterbox():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    sample = Augment(AugmentConfig(), (64, 64))([sample_of(image, (4, 6, 20, 30))], 0, np.random.default_rng(0))
    assert np.array_equal(sample.image, Letterbox.fit((48, 64), (64, 64)).resize_and_pad(image, (64, 64)))
    assert sample.box_xyxy.tolist() == [[4, 14, 20, 38]]  # 16 rows are free, 8 of them above
    assert (sample.image[:8] == PAD_VALUE).all()


def test_quarter_turn_by_hand():
    # x' = -y + 40, y' = x: the box (2, 4)-(10, 20) has corners at x' 20..36 and y' 2..10.
    turn = affine((0, -1, 40), (1, 0, 0))
    assert transform_boxes(np.array([[2.0, 4.0, 10.0, 20.0]]), turn).tolist() == [[20, 2, 36, 10]]
    # Mirrored instead, x' = 40 - x: 2..10 becomes 30..38. Twice as high, y' = 2 y + 1: 4..20 becomes 9..41.
    mirrored = affine((-1, 0, 40), (0, 2, 1))
    assert transform_boxes(np.array([[2.0, 4.0, 10.0, 20.0]]), mirrored).tolist() == [[30, 9, 38, 41]]
    image = np.zeros((40, 40, 3), np.uint8)
    image[4:20, 2:10] = 255
    canvas = np.zeros((40, 40, 3), np.uint8)
    warp_into(canvas, image, turn)
    assert painted_box(canvas, COLORS[3]) == (20, 2, 36, 10)


def test_paint_leaves_the_rest_alone():
    canvas = np.full((20, 20, 3), 9, np.uint8)
    warp_into(canvas, np.full((4, 6, 3), 200, np.uint8), affine((1, 0, 3.5), (0, 1, -2)))
    # Columns whose centers lie in 3.5..9.5 are 3 to 8 (3.5 counts, 9.5 does not); two of four rows are left.
    expected = np.full((20, 20), 9)
    expected[0:2, 3:9] = 200
    assert np.array_equal(canvas[..., 0], expected)


def test_upright_image_is_cut_at_whole_pixels_by_hand():
    # Zoomed by 2 and moved by 0.6, nine columns have their centers in it, from 1 on. They show 0.2 to 4.7 of the
    # image, rounded 0 to 5: the map is 9 / 5 x + 1.
    canvas, image = np.zeros((10, 10, 3), np.uint8), np.zeros((10, 10, 3), np.uint8)
    assert warp_into(canvas, image, affine((2, 0, 0.6), (0, 2, 0))).tolist() == [[1.8, 0, 1], [0, 2, 0], [0, 0, 1]]
    # Mirrored, x' = 9.6 - 2 x: all ten columns show 4.8 to -0.2, rounded 5 to 0.
    assert warp_into(canvas, image, affine((-2, 0, 9.6), (0, 2, 0)))[0].tolist() == [-2, 0, 10]
    # By 1.5, 10 columns show 6.67, rounded 7, which makes it 10 / 7.
    assert warp_into(canvas, image, affine((1.5, 0, 0), (0, 1.5, 0)))[0].tolist() == [10 / 7, 0, 0]


@settings(max_examples=80, deadline=None)
@given(
    zooms=st.tuples(*[st.floats(0.4, 2.5)] * 2),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 2),
    center=st.tuples(*[st.floats(-30, 70)] * 2),
)
def test_upright_images_are_drawn_by_the_map_that_is_returned_which_is_nearly_the_one_asked_for(zooms, flips, center):
    # Two ramps, which bilinear interpolation keeps: red tells the column that a pixel comes from, green the row.
    columns, rows = np.meshgrid(np.arange(60), np.arange(50))
    image = np.stack((columns * 4 + 2, rows * 4 + 2, np.full_like(rows, 255)), axis=-1).astype(np.uint8)
    (a, d), (x, y) = np.multiply(zooms, flips), center
    asked = affine((a, 0, x - a * 30), (0, d, y - d * 25))
    canvas = np.zeros((40, 48, 3), np.uint8)
    used = warp_into(canvas, image, asked)
    ys, xs = np.nonzero(canvas[..., 2])
    if len(xs) == 0:
        assert np.array_equal(used, asked)
        return
    for axis, (at, side) in enumerate(((xs, 60), (ys, 50))):
        scale, shift = used[axis, axis], used[axis, 2]
        sampled = canvas[ys, xs, axis] / 4.0  # the place in the image, half a pixel at its first pixel's center
        expected = ((at + 0.5 - shift) / scale).clip(0.5, side - 0.5)
        inner = (at > at.min() + 2) & (at < at.max() - 2)  # an image that was cut ends in its last whole pixel
        assert np.abs(sampled - expected)[inner].max(initial=0) <= 0.3
        ends = np.array((at.min(), at.max() + 1))
        moved = (ends - shift) / scale - (ends - asked[axis, 2]) / asked[axis, axis]
        assert np.abs(moved).max() <= 1 + 0.5 / abs(asked[axis, axis])


def test_images_of_mosaic_meet_without_gap():
    white = sample_of(np.full((64, 64, 3), 255, np.uint8))
    for rotate in (0.0, 45.0):
        augment = Augment(AugmentConfig(mosaic=1.0, scale=(1.3, 1.3), rotate=rotate), (64, 64))
        for seed in range(5):
            image = augment([white], 0, np.random.default_rng(seed)).image
            # 4 squares of 64 around a point inside the input: zoomed to 83 they cover all but turned corners
            assert (image[16:48, 16:48] == 255).all()


@pytest.mark.parametrize(("min_visible", "kept"), [(0.49, 1), (0.51, 0)])
def test_min_visible_is_fraction_of_the_area(min_visible, kept):
    # Zoomed twice about (32, 32), x 8..24 goes to -16..16: half is left. y 24..40 goes to 16..48, all inside.
    config = AugmentConfig(scale=(2.0, 2.0), min_visible=min_visible)
    black = np.zeros((64, 64, 3), np.uint8)
    sample = Augment(config, (64, 64))([sample_of(black, (8, 24, 24, 40))], 0, np.random.default_rng(0))
    assert sample.box_xyxy.tolist() == [[0, 16, 16, 48]][:kept]
    crowd = Augment(config, (64, 64))([sample_of(black, (8, 24, 24, 40), crowd=True)], 0, np.random.default_rng(0))
    assert crowd.is_crowd.tolist() == [True]  # a crowd stays however little of it shows


def test_sample_depends_on_the_generator_alone():
    rng = np.random.default_rng(0)
    source = [sample_of(rng.integers(0, 256, (50, 60, 3), np.uint8), (5, 5, 30, 40)) for _ in range(5)]
    before = [sample.image.copy() for sample in source]
    config = AugmentConfig(mosaic=1, scale=(0.5, 1.5), rotate=5, hue=0.1, saturation=1.5, exposure=1.5)
    augment = Augment(config, (64, 64))
    first, again, other = (augment(source, 2, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.box_xyxy, again.box_xyxy)
    assert not np.array_equal(first.image, other.image)
    assert all(np.array_equal(sample.image, old) for sample, old in zip(source, before, strict=True))


def test_colors_by_hand():
    image = np.array([[(200, 0, 0), (100, 50, 50), (114, 114, 114)]], np.uint8)
    third = apply_hsv(image, HsvGains(hue=1 / 3, saturation=1, value=1))  # red becomes green
    assert np.abs(third.astype(int) - [(0, 200, 0), (50, 100, 50), (114, 114, 114)]).max() <= 3
    half = apply_hsv(image, HsvGains(hue=0, saturation=1, value=0.5))
    assert np.abs(half.astype(int) - [(100, 0, 0), (50, 25, 25), (57, 57, 57)]).max() <= 1
    # saturation of (100, 50, 50) is (100 - 50) / 100; twice that is 1; (200, 0, 0) is there already
    full = apply_hsv(image, HsvGains(hue=0, saturation=2, value=1))
    assert np.abs(full.astype(int) - [(200, 0, 0), (100, 0, 0), (114, 114, 114)]).max() <= 2
    backward = apply_hsv(image, HsvGains(hue=-1 / 3, saturation=1, value=1.5))  # 200 * 1.5 stops at 255
    assert np.abs(backward[0, 0].astype(int) - (0, 0, 255)).max() <= 6  # one step of hue


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_doing_nothing_to_colors_changes_them_by_rounding_only(seed):
    image = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    same = apply_hsv(image, HsvGains(0, 1, 1))
    # A step of hue is 6 levels of 255. OpenCV has 256 steps on the way there and 255 on the way back: with
    # the rounding, hue may be off by one and a half.
    assert np.abs(same.astype(int) - image).max() <= 9


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.5, 0.5)])
def test_scale_is_two_ordered_zooms(scale):
    with pytest.raises(ValidationError, match="expected two zooms above 0"):
        AugmentConfig(scale=scale)


def hook(*transforms: AlbumentationsTransform) -> AlbumentationsHook:
    return AlbumentationsHook(transforms, (64, 64))


def test_albumentations_moves_boxes_and_keeps_classes_and_crowds():
    image = np.zeros((64, 64, 3), np.uint8)
    image[10:20, 4:24] = 255
    sample = Sample(
        image,
        np.array([[4, 10, 24, 20], [0, 0, 8, 64]], np.float32),
        np.array([3, 5]),
        np.array([False, True]),
        9,
    )
    mirror = hook(AlbumentationsTransform(name="HorizontalFlip", args={"p": 1.0}))
    flipped = mirror(sample, np.random.default_rng(0))
    assert flipped.box_xyxy.tolist() == [[40, 10, 60, 20], [56, 0, 64, 64]]
    assert flipped.class_id.tolist() == [3, 5]
    assert flipped.class_id.dtype == np.int64
    assert flipped.is_crowd.tolist() == [False, True]
    assert painted_box(flipped.image, COLORS[3]) == (40, 10, 60, 20)


def test_albumentations_takes_images_without_boxes():
    blank = sample_of(np.zeros((64, 64, 3), np.uint8))
    turned = hook(AlbumentationsTransform(name="Affine", args={"rotate": [5, 10], "p": 1.0}))
    assert turned(blank, np.random.default_rng(0)).box_xyxy.shape == (0, 4)


def test_albumentations_draws_from_the_generator_of_the_sample():
    noise = hook(AlbumentationsTransform(name="GaussNoise", args={"p": 1.0}))
    grey = sample_of(np.full((64, 64, 3), 128, np.uint8), (5, 5, 20, 20))
    other = noise(grey, np.random.default_rng(2)).image
    first, again = (noise(grey, np.random.default_rng(1)).image for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_albumentations_errors_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        hook(
            AlbumentationsTransform(name="ClAHE"),
            AlbumentationsTransform(name="CLAHE", args={"clip": 3}),
            AlbumentationsTransform(name="Blur", args={"p": 3.0}),
            AlbumentationsTransform(name="Compose"),
            AlbumentationsTransform(name="Resize", args={"height": 32, "width": 64}),
        )
    unknown, argument, value, composition, size = caught.value.problems
    assert "train.augment.albumentations[0]: ClAHE: no such transform" in unknown
    assert "did you mean 'CLAHE'?" in unknown
    assert "clip" in argument
    assert "less than or equal to 1" in value
    assert "no such transform" in composition
    assert "must keep the image 64x64x3 uint8, but returned 32x64x3 uint8" in size
