"""COCO annotations: packed arrays against a plain reading, and each kind of mistake."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.formats.coco import CocoDataset, check_image_files, load_coco
from cspdet.errors import DataError


def content(**changes: Any) -> dict[str, Any]:
    """Two images of 100x80 (width x height), classes 7 and 3, one box in the first image."""
    return {
        "images": [
            {"id": 20, "file_name": "b.png", "width": 100, "height": 80},
            {"id": 10, "file_name": "a.png", "width": 100, "height": 80},
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 20, "category_id": 7, "bbox": [10, 20, 30, 40.5]}],
    } | changes


def load(folder: Path, data: Any, split: str = "train", **options: bool) -> CocoDataset:
    path = folder / "annotations.json"
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return load_coco(SplitFiles(folder, path), split, **options)


def problems(folder: Path, data: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, data, **options)
    assert all(line.startswith(str(folder / "annotations.json")) for line in caught.value.problems)
    return "\n".join(caught.value.problems).replace(str(folder / "annotations.json"), "FILE")


def box(*values: Any, **keys: Any) -> dict[str, Any]:
    return {"image_id": 20, "category_id": 7, "bbox": list(values), **keys}


def test_order_names_and_boxes(tmp_path):
    coco = load(tmp_path, content())
    assert (coco.classes.names, coco.classes.category_ids) == (("dog", "cat"), (3, 7))
    assert len(coco) == 2
    assert coco.image_id.tolist() == [20, 10]
    assert coco.size_hw.tolist() == [[80, 100], [80, 100]]
    assert [coco.path(0), coco.path(1)] == [tmp_path / "b.png", tmp_path / "a.png"]
    box_xyxy, class_id, is_crowd = coco.boxes(0)
    assert (box_xyxy.dtype, class_id.dtype, is_crowd.dtype) == (np.float32, np.int64, np.bool_)
    assert box_xyxy.tolist() == [[10, 20, 40, 60.5]]  # 10 + 30, 20 + 40.5
    assert class_id.tolist() == [1]
    assert is_crowd.tolist() == [False]
    assert [part.shape for part in coco.boxes(1)] == [(0, 4), (0,), (0,)]
    assert coco.warnings == ()
    with pytest.raises(IndexError):
        coco.boxes(2)


def test_boxes_are_the_callers_own(tmp_path):
    coco = load(tmp_path, content())
    coco.boxes(0)[0][:] = -1
    assert coco.boxes(0)[0].tolist() == [[10, 20, 40, 60.5]]


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/\\:."), min_size=1).filter(str.strip)
SIDE = st.integers(1, 5000)
COORDINATE = st.one_of(st.integers(-50, 3000), st.floats(-50, 3000, width=32))
LENGTH = st.one_of(st.integers(0, 3000), st.floats(0, 3000, width=32))


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    ids = draw(st.lists(st.integers(-5, 10**12), min_size=1, max_size=6, unique=True))
    category_ids = draw(st.lists(st.integers(0, 90), min_size=1, max_size=4, unique=True))
    images = [{"id": i, "file_name": f"{draw(NAMES)}.png", "width": draw(SIDE), "height": draw(SIDE)} for i in ids]
    annotations = []
    for number in range(draw(st.integers(0, 12))):
        entry: dict[str, Any] = {
            "image_id": draw(st.sampled_from(ids)),
            "category_id": draw(st.sampled_from(category_ids)),
            "bbox": [draw(COORDINATE), draw(COORDINATE), draw(LENGTH), draw(LENGTH)],
        }
        entry |= draw(st.sampled_from([{}, {"iscrowd": 0}, {"iscrowd": 1}, {"iscrowd": True}]))
        entry |= draw(
            st.sampled_from([{}, {"id": 5 + number}, {"segmentation": [[1, 2, 3]], "area": 3.5}, {"id": None}])
        )
        annotations.append(entry)
    categories = [{"id": i, "name": f"class {i}"} for i in category_ids]
    return {"images": images, "categories": categories, "annotations": annotations}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=files(), ascii_only=st.booleans())
def test_packed_equals_a_plain_reading(tmp_path, data, ascii_only):
    coco = load(tmp_path, json.dumps(data, ensure_ascii=ascii_only).encode(), "val")
    rank = {number: i for i, number in enumerate(sorted(entry["id"] for entry in data["categories"]))}
    for i, image in enumerate(data["images"]):
        limit = np.array([image["width"], image["height"]] * 2, np.float64)
        expected = []
        for entry in data["annotations"]:
            x, y, width, height = entry["bbox"]
            corners = np.clip(np.array([x, y, x + width, y + height], np.float64), 0, limit).astype(np.float32)
            if entry["image_id"] == image["id"] and corners[2] > corners[0] and corners[3] > corners[1]:
                crowd = bool(entry.get("iscrowd", 0))
                expected.append((corners.tolist(), rank[entry["category_id"]], crowd))
        box_xyxy, class_id, is_crowd = coco.boxes(i)
        assert list(zip(box_xyxy.tolist(), class_id.tolist(), is_crowd.tolist(), strict=True)) == expected
        assert coco.image_id[i] == image["id"]
        assert coco.size_hw[i].tolist() == [image["height"], image["width"]]
        assert coco.path(i) == tmp_path / image["file_name"]


def test_boxes_that_are_skipped_or_clipped_are_counted(tmp_path):
    annotations = [
        box(0, 0, 100, 80),
        box(5, 5, 0, 10),  # no width
        box(5, 5, 10, 0),  # no height
        box(100, 5, 10, 10),  # begins where the image ends
        box(-20, 5, 20, 10),  # ends where it begins
        box(-0.5, 0, 50, 80.9),  # within a pixel: clipped without a word
        box(-2, 10, 50, 20),  # two pixels outside
        box(90, 70, 1e308, 1e308),
    ]
    coco = load(tmp_path, content(annotations=annotations))
    assert coco.boxes(0)[0].tolist() == [
        [0, 0, 100, 80],
        [0, 0, 49.5, 80],
        [0, 10, 48, 30],
        [90, 70, 100, 80],
    ]
    text = "\n".join(coco.warnings)
    assert "2 boxes without width or height skipped: image 20 [5.0, 5.0, 0.0, 10.0]; " in text
    assert "2 boxes completely outside the image skipped: image 20 [100.0, " in text
    assert "2 boxes partly outside the image clipped to it: image 20 [-2.0, " in text


MISTAKES = {
    "no images": ({"images": []}, "'images' is empty"),
    "images not a list": ({"images": {"id": 1}}, "'images' is an object; expected a list"),
    "images is null": ({"images": None}, "no 'images'"),
    "no categories": ({"categories": []}, "'categories' is empty"),
    "category without id": ({"categories": [{"name": "x"}]}, "integer: categories[0] has no id"),
    "category text id": ({"categories": [{"id": "7", "name": "x"}]}, 'categories[0] has id "7"'),
    "category without name": ({"categories": [{"id": 7, "name": " "}]}, 'category 7 has name " "'),
    "category name list": ({"categories": [{"id": 7, "name": ["a"]}]}, "category 7 has name a list of 1"),
    "category twice": (
        {"categories": [{"id": 7, "name": "x"}, {"id": 7, "name": "y"}]},
        "duplicate category id: 7 is 'x' and 'y'",
    ),
    "name twice": (
        {
            "categories": [{"id": 7, "name": "x"}, {"id": 8, "name": "x"}],
            "annotations": [{"id": i, "image_id": 20, "category_id": i, "bbox": [0, 0, 9, 9]} for i in (7, 8)],
        },
        "duplicate category name: 'x' is category 8 and another one",
    ),
    "image twice": (
        {"images": [content()["images"][0]] * 2},
        "duplicate image id: 20 again for 'b.png'",
    ),
    "unknown image": ({"annotations": [box(1, 1, 2, 2, image_id=5, id=8)]}, "image_id: annotation 8 has 5"),
    "unknown category": (
        {"annotations": [box(1, 1, 2, 2, category_id=1)]},
        "unknown category_id: an annotation of image 20 has 1",
    ),
    "text image_id": (
        {"annotations": [box(1, 1, 2, 2, image_id="20")]},
        'image_id must be an integer: annotations[0] has image_id "20"',
    ),
    "no category_id": (
        {"annotations": [{"id": 4, "image_id": 20, "bbox": [1, 1, 2, 2]}]},
        "category_id must be an integer: annotation 4 has no category_id",
    ),
    "huge image_id": ({"annotations": [box(1, 1, 2, 2, image_id=10**30)]}, "a number of more than 20 digits"),
    "no bbox": ({"annotations": [{"id": 4, "image_id": 20, "category_id": 7}]}, "bbox must be 4 numbers"),
    "3 numbers": ({"annotations": [box(1, 1, 2)]}, "annotations[0] has [1, 1, 2]"),
    "text in bbox": ({"annotations": [box(1, 1, 2, "3")]}, 'annotations[0] has [1, 1, 2, "3"]'),
    "true in bbox": ({"annotations": [box(1, 1, 2, True)]}, "annotations[0] has [1, 1, 2, true]"),
    "endless integer": ({"annotations": [box(1, 1, 2, 10**400)]}, "bbox must be 4 numbers"),
    "negative": ({"annotations": [box(1, 1, -3, 2, id=8)]}, "0 or more: annotation 8 has [1, 1, -3, 2]"),
    "NaN": ({"annotations": [box(1, float("nan"), 3, 2)]}, "bbox must be finite numbers"),
    "infinite": ({"annotations": [box(1, 1, float("inf"), 2)]}, "bbox must be finite numbers"),
    "crowd": ({"annotations": [box(1, 1, 3, 2, iscrowd=2)]}, "iscrowd must be 0 or 1: annotations[0] has 2"),
    "number as annotation": ({"annotations": [3]}, "annotations must be objects: annotations[0] is 3"),
    "no boxes": ({"annotations": []}, "no boxes; a train split needs some"),
    "only empty boxes": ({"annotations": [box(1, 1, 0, 0)]}, "1 box without width or height skipped"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_each_mistake_is_named(tmp_path, kind):
    changes, message = MISTAKES[kind]
    assert message in problems(tmp_path, content(**changes))


@pytest.mark.parametrize("key", ["images", "categories", "annotations"])
def test_each_list_must_be_there(tmp_path, key):
    data = content()
    del data[key]
    assert f"FILE: no {key!r}" in problems(tmp_path, data)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("file_name", None, "file_name must be text"),
        ("file_name", "", "file_name must be text"),
        ("file_name", "a\0b.png", "file_name is not valid text"),
        ("file_name", "\ud800.png", "file_name is not valid text"),
        ("width", None, "an image's width must be an integer above 0"),
        ("width", 0, "an image's width"),
        ("height", -5, "an image's height"),
        ("height", 80.0, "an image's height"),
        ("height", 10**12, "an image's height"),
        ("id", "20", "an image's id must be an integer"),
        ("id", True, "an image's id"),
        ("id", 2**63, "an image's id"),
    ],
)
def test_each_wrong_value_of_an_image_is_named(tmp_path, key, value, message):
    data = content()
    data["images"][1][key] = value
    assert message in problems(tmp_path, data)


@pytest.mark.parametrize(
    "name",
    ["../a.png", "x/../../a.png", "/etc/passwd", "..", ".", "./..", "x/..", "..\\a.png", "x\\..\\..\\a.png",
     "C:\\a.png",
     "C:a.png", "\\\\server\\share\\a.png", "//a.png", "x/./../../y/a.png"],
)  # fmt: skip
def test_names_must_stay_inside_the_folder(tmp_path, name):
    data = content()
    data["images"][1]["file_name"] = name
    assert "file_name must stay inside the image folder: image 10 has file_name" in problems(tmp_path, data)


@pytest.mark.parametrize(
    "name", ["x/../a.png", "x/a.png", ".hidden.png", "..a.png", "./a.png", "a..png", "12:30:05.png"]
)
def test_names_inside_the_folder_are_kept(tmp_path, name):
    data = content()
    data["images"][1]["file_name"] = name
    assert load(tmp_path, data).name(1) == name


def test_all_mistakes_come_at_once_counted_with_the_first_places(tmp_path):
    wrong = [box(1, 1, 2, 2, id=i, image_id=99) for i in range(50)]
    data = content(annotations=[*wrong, box(0, 0, -1, 1), box(0)], categories=[*content()["categories"], {"id": 1}])
    data["images"][0]["file_name"] = "../x"
    text = problems(tmp_path, data)
    assert "FILE: unknown image_id: annotation 0 has 99; annotation 1 has 99; annotation 2 has 99; and 47 more" in text
    for part in ("0 or more", "4 numbers", "category 1 has no name", "inside the image folder"):
        assert part in text
    assert text.count("\n") == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b'{"images": [', "FILE:1:13: not valid JSON"),
        (b'{"images":\n [{"id": 1,}]}', "FILE:2:"),
        (bytes(range(128, 256)), "not valid JSON"),
        (b"\x00\x01\x02" * 50, "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"images": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"1" * 5000, "not valid JSON"),
        (b"[]", "the top level is a list of 0"),
        (b'"text"', 'the top level is "text"'),
        (b"null", "the top level is null"),
        (b'{"bbox": [1, 2, 3, 4], "image_id": 1, "category_id": 1}', "the top level is an object"),
        (json.dumps(content()).encode() + b"}", "not valid JSON: Extra data"),
    ],
)
def test_rubbish_is_no_annotation_file(tmp_path, data, message):
    assert message in problems(tmp_path, data)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_of_json_is_read(tmp_path, encoding):
    data = content()
    data["categories"][0]["name"] = "été"
    assert load(tmp_path, json.dumps(data, ensure_ascii=False).encode(encoding)).classes.names == (
        "dog",
        "été",
    )


def test_missing_annotation_file(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: no such annotation file"):
        load_coco(SplitFiles(tmp_path, tmp_path / "gone.json"), "val")


def test_splits_without_boxes(tmp_path):
    data = content(annotations=[])
    assert len(load(tmp_path, data, "val")) == 2
    del data["annotations"]
    coco = load(tmp_path, data, "test", allow_empty=True)
    assert [part.shape for part in coco.boxes(1)] == [(0, 4), (0,), (0,)]
    assert "no 'annotations'" in problems(tmp_path, data, split="test")


def test_the_set_is_a_handful_of_arrays(tmp_path):
    """Ten thousand boxes must not make one more Python object than one box does."""
    many = content(annotations=[box(1, 1, 2, 2)] * 10_000)
    sizes = []
    for data in (content(), many):
        coco = load(tmp_path, data)
        assert not any(isinstance(value, (list, dict)) for value in vars(coco).values())
        sizes.append(coco.nbytes)
        copy = pickle.loads(pickle.dumps(coco))
        assert copy.boxes(0)[0].tolist() == coco.boxes(0)[0].tolist()
    assert sizes[1] - sizes[0] == 9_999 * (16 + 4 + 1)  # 4 float32, one int32, one bool


def write_image(path: Path, size_hw: tuple[int, int]) -> None:
    path.write_bytes(cv2.imencode(path.suffix, np.zeros((*size_hw, 3), np.uint8))[1].tobytes())


def test_check_images_names_every_bad_one(tmp_path):
    from PIL import Image

    names = ["good.png", "missing.png", "swapped.png", "cut.png", "turned.jpg", "body.png"]
    images = [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(names)]
    annotations = [{"image_id": 0, "category_id": 3, "bbox": [1, 1, 5, 5]}]
    coco = load(tmp_path, content(images=images, annotations=annotations))
    write_image(tmp_path / "good.png", (80, 100))
    write_image(tmp_path / "swapped.png", (100, 80))
    write_image(tmp_path / "cut.png", (80, 100))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-20])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 80)).save(tmp_path / "turned.jpg", exif=exif)
    write_image(tmp_path / "body.png", (80, 100))
    damaged = bytearray((tmp_path / "body.png").read_bytes())
    damaged[50:60] = bytes(10)  # inside the pixels: the header does not show it
    (tmp_path / "body.png").write_bytes(damaged)
    found = check_image_files(coco)
    assert len(found) == 4
    assert found[0] == f"{tmp_path}/missing.png: no such image"
    assert found[1].endswith("swapped.png: the file is 80x100 (width x height), the annotations say 100x80")
    assert found[2].endswith("cut.png: truncated PNG: the IHDR or IEND chunk is missing")
    assert "80x100 (width x height)" in found[3]
    assert found[3].endswith("they agree only before the file's EXIF orientation (6) is applied")
    assert [line.split(": ")[0][-8:] for line in check_image_files(coco, decode=True)][-1] == "body.png"


def test_many_boxes_of_a_image_keep_the_order_of_the_file(tmp_path):
    # enough boxes that an unstable sort would show; they alternate between the two images
    many = [box(i / 10, 0, 5, 5, image_id=(20, 10)[i % 2]) for i in range(600)]
    coco = load(tmp_path, content(annotations=many))
    assert coco.boxes(0)[0][:, 0].tolist() == [np.float32(i / 10) for i in range(0, 600, 2)]
    assert coco.boxes(1)[0][:, 0].tolist() == [np.float32(i / 10) for i in range(1, 600, 2)]


def test_annotation_ids_are_optional_but_unique(tmp_path):
    same = [box(1, 2, 3, 4, id=9), box(5, 6, 7, 8, id=4), box(9, 9, 9, 9, id=9)]
    assert "FILE: duplicate annotation id: 9" in problems(tmp_path, content(annotations=same))
    without = [box(1, 2, 3, 4), box(5, 6, 7, 8), box(9, 9, 9, 9)]
    assert len(load(tmp_path, content(annotations=without)).boxes(0)[0]) == 3
