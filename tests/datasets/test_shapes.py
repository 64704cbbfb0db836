"""The built-in shapes set: what is drawn, what is annotated, and that a seed fixes every byte."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.datasets.synthetic.dataset import _bounce, make_shapes
from cspdet.datasets.synthetic.shapes import (
    CATEGORIES,
    MIN_VISIBLE_FRACTION,
    DrawnShape,
    ShapesCanvas,
    make_image,
    outline,
    paint,
    rasterize,
)
from cspdet.errors import DataError

ROOT = Path(__file__).parents[2]
KINDS = {name: kind for kind, name in enumerate(CATEGORIES.values())}
BLACK, WHITE = np.zeros(3, np.float32), np.full(3, 255, np.float32)


def shape(name: str, center: tuple[float, float], diameter: float, angle: float = 0.0) -> DrawnShape:
    return DrawnShape(KINDS[name], center, diameter, angle, 1.0, WHITE, BLACK, 0, 8.0)


def scene(size: int = 64) -> ShapesCanvas:
    return ShapesCanvas(np.zeros((size, size, 3), np.float32))


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "set"
    make_shapes(folder, images=20, size=96, seed=3)
    return folder


@given(
    kind=st.integers(0, len(CATEGORIES) - 1),
    diameter=st.floats(8, 200),
    angle=st.floats(0, 7),
    stretch=st.floats(0.7, 1.4),
)
def test_the_longer_side_of_an_outline_is_its_diameter(kind, diameter, angle, stretch):
    shape = DrawnShape(kind, (50.0, 70.0), diameter, angle, stretch, WHITE, BLACK, 0, 8.0)
    points = outline(shape)[0]
    assert np.ptp(points, axis=0).max() == pytest.approx(diameter)
    assert (points.min(0) + points.max(0)) / 2 == pytest.approx([50.0, 70.0])


def test_an_upright_square_covers_exactly_its_pixels():
    # center (20, 30), side 10: x from 15 to 25, y from 25 to 35, that is columns 15..24 and rows 25..34
    drawn = scene()
    drawn.add(shape("square", (20.0, 30.0), 10.0))
    (box,) = drawn.boxes()
    assert box.xywh == (15.0, 25.0, 10.0, 10.0)
    assert box.area == 100.0
    assert drawn.image[25:35, 15:25].min() == 255.0
    drawn.image[25:35, 15:25] = 0
    assert drawn.image.max() <= 64  # OpenCV fills the border too: a quarter of a pixel, 255 / 4


def test_area_of_a_circle_and_hole_of_a_ring():
    circle = rasterize(shape("circle", (100.0, 100.0), 120.0), (200, 200))
    ring = rasterize(shape("ring", (100.0, 100.0), 120.0), (200, 200))
    assert circle.alpha.sum() == pytest.approx(math.pi * 60**2, rel=0.01)
    assert ring.alpha.sum() == pytest.approx(math.pi * 60**2 * (1 - 0.55**2), rel=0.01)
    middle = ring.alpha.shape[0] // 2
    assert ring.alpha[middle, middle] == 0
    assert circle.alpha[middle, middle] == 1


def test_a_box_is_what_a_later_shape_leaves_of_it():
    # the second square covers columns 20..29 of the first, which spans 10..29: columns 10..19 are left
    drawn = scene()
    drawn.add(shape("square", (20.0, 30.0), 20.0))
    drawn.add(shape("square", (40.0, 30.0), 40.0))
    first, second = drawn.boxes()
    assert first.xywh == (10.0, 20.0, 10.0, 20.0)
    assert first.area == 200.0
    assert second.xywh == (20.0, 10.0, 40.0, 40.0)


@pytest.mark.parametrize(("left", "annotated"), [(14, True), (10, False)])
def test_a_shape_of_which_less_than_30_percent_is_seen_has_no_box(left, annotated):
    # the first spans 40 columns (8..47), the second leaves `left` of them: 35% and 25%
    drawn = scene(80)
    drawn.add(shape("square", (28.0, 40.0), 40.0))
    drawn.add(shape("square", (8.0 + left + 30.0, 40.0), 60.0))
    assert len(drawn.boxes()) == 1 + annotated


def test_what_lies_outside_the_image_counts_as_not_seen():
    # side 20 around x = -3: columns -13..6, 7 of 20 inside (35%); around x = -5 only 5 of 20 (25%)
    inside, outside = scene(), scene()
    inside.add(shape("square", (-3.0, 30.0), 20.0))
    outside.add(shape("square", (-5.0, 30.0), 20.0))
    assert [box.xywh for box in inside.boxes()] == [(0.0, 20.0, 7.0, 20.0)]
    assert outside.boxes() == ()


def test_add_refuses_what_would_hide_too_much():
    drawn = scene()
    drawn.add(shape("square", (20.0, 30.0), 20.0))
    before = drawn.image.copy()
    assert not drawn.add(shape("square", (25.0, 30.0), 20.0), 0.5)  # would leave 5 of 20 columns
    assert (drawn.image == before).all()
    assert drawn.add(shape("square", (32.0, 30.0), 20.0), 0.5)  # leaves 12 of 20
    assert not drawn.add(shape("square", (64.0, 30.0), 20.0), 0.6)  # itself only half inside


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 10_000))
def test_boxes_are_tight_and_inside(index):
    _, boxes = make_image(0, 0, index, 96)
    assert (index % 20 == 13) <= (boxes == ())
    for box in boxes:
        x, y, width, height = box.xywh
        assert x >= 0
        assert y >= 0
        assert x + width <= 96
        assert y + height <= 96
        assert max(width, height) <= 96 / 2 + 2  # half the image, and the pixels its edges touch
        assert 0 < box.area <= width * height
        assert box.category_id in CATEGORIES


def test_painting_leaves_everything_outside_the_shape_alone():
    canvas = np.full((50, 50, 3), 7, np.float32)
    star = shape("star", (25.0, 25.0), 30.0, 0.4)
    coverage = rasterize(star, (50, 50))
    paint(canvas, star, coverage)
    alpha = np.zeros((50, 50), np.float32)
    alpha[coverage.window] = coverage.alpha
    assert canvas == pytest.approx(np.repeat((7 + (255 - 7) * alpha)[..., None], 3, axis=2), abs=1e-3)


def test_the_same_seed_makes_the_same_bytes(small_set, tmp_path):
    make_shapes(tmp_path / "again", images=20, size=96, seed=3)
    first, again = digests(small_set), digests(tmp_path / "again")
    assert first == again
    assert len(first) == 20 + 4 + 2 + 1 + 1


def test_other_seeds_splits_and_numbers_make_other_images():
    image = make_image(0, 0, 0, 96)[0]
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert (make_image(*other, 96)[0] != image).mean() > 0.5


def test_a_larger_set_begins_with_the_smaller_one(small_set, tmp_path):
    make_shapes(tmp_path / "more", images=25, size=96, seed=3)
    smaller, larger = digests(small_set), digests(tmp_path / "more")
    images = [name for name in smaller if name.endswith(".jpg")]
    assert {name: smaller[name] for name in images} == {name: larger[name] for name in images}


def test_the_set_is_coco_with_gapped_ids(small_set):
    ids = [category["id"] for category in json.loads(instances(small_set, "train"))["categories"]]
    assert ids == sorted(CATEGORIES)
    assert min(ids) > 1
    assert ids[-1] - ids[0] > len(ids)
    seen: set[int] = set()
    for split, number in (("train", 20), ("val", 4)):
        coco = json.loads(instances(small_set, split))
        assert len(coco["images"]) == number
        own = {image["id"] for image in coco["images"]}
        assert not seen & own
        seen |= own
        assert {a["image_id"] for a in coco["annotations"]} <= own
        assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"])
        for image in coco["images"]:
            pixels = cv2.imread(str(small_set / split / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3)
    boxed = {a["image_id"] for a in json.loads(instances(small_set, "train"))["annotations"]}
    assert 14 not in boxed  # the image of index 13 is empty


def instances(folder: Path, split: str) -> str:
    return (folder / "annotations" / f"instances_{split}.json").read_text()


def test_the_video_moves(small_set):
    video = cv2.VideoCapture(str(small_set / "video.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == 25
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == 150
    assert frames[0].shape == (96, 96, 3)
    assert np.abs(frames[0].astype(int) - frames[75]).max() > 80


@given(at=st.floats(-500, 500), low=st.floats(0, 20), span=st.floats(1, 100))
def test_what_bounces_stays_between_its_walls(at, low, span):
    assert low - 1e-6 <= _bounce(at, low, low + span) <= low + span + 1e-6


def test_bouncing_follows_the_mirror_law():
    # walls at 10 and 20: free running 18, 22, 31 and 7 fold back to 18, 18, 11 and 13
    assert [_bounce(at, 10, 20) for at in (18, 22, 31, 7)] == pytest.approx([18, 18, 11, 13])


def test_an_earlier_set_is_replaced_and_nothing_else(tmp_path):
    folder = tmp_path / "set"
    make_shapes(folder, images=3, size=64)
    make_shapes(folder, images=2, size=64)
    assert sorted(path.name for path in (folder / "train").iterdir()) == ["000001.jpg", "000002.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (folder / "train" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"train/mine\.jpg"):
        make_shapes(folder, images=2, size=64)
    assert (folder / "train" / "mine.jpg").read_bytes() == b"mine"


def test_a_folder_of_someone_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="other files"):
        make_shapes(tmp_path, images=2, size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failure_on_the_way_keeps_the_earlier_set(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    make_shapes(folder, images=2, size=64)
    before = digests(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cspdet.datasets.synthetic.dataset.write_video", full)
    with pytest.raises(Exception, match="No space left"):
        make_shapes(folder, images=3, size=64)
    assert digests(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_all_invalid_values_are_reported_together(tmp_path):
    with pytest.raises(DataError) as caught:
        make_shapes(tmp_path / "set", images=0, size=10, seed=-1)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["--images", "--size", "--seed"]


def test_visible_share_is_documented():
    assert MIN_VISIBLE_FRACTION == 0.3
    assert "less than 30%" in (ROOT / "data" / "README.md").read_text()


def test_the_tool_prints_the_descriptor_last(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "tools/prepare_data.py"),
        "shapes",
        "--output",
        str(tmp_path / "set"),
    ]
    done = subprocess.run([*command, "--images", "5", "--size", "64"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(tmp_path / "set" / "shapes.yaml")
    assert (tmp_path / "set" / "video.mp4").is_file()


def test_the_descriptor_path_is_relative_if_the_output_folder_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(make_shapes("set", images=1, size=64).config_path) == os.path.join("set", "shapes.yaml")


@pytest.mark.parametrize("name", ["train/000001.jpg", "annotations/instances_train.json"])
def test_files_changed_after_the_conversion_are_kept(tmp_path, name):
    make_shapes(tmp_path / "shapes", images=1, size=64)
    file = tmp_path / "shapes" / name
    file.write_bytes(b"changed by the user")
    written = (tmp_path / "shapes/shapes.yaml").stat().st_mtime
    os.utime(file, (written + 60, written + 60))
    with pytest.raises(DataError, match=rf"{name}: was changed after the conversion; it is kept"):
        make_shapes(tmp_path / "shapes", images=1, size=64)
    assert file.read_bytes() == b"changed by the user"
