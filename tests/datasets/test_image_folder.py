"""Folders and lists of images with a class each: what is found, in which order, and what is told about the rest."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cspdet.datasets.classification.image_folder import has_split, load_image_folder
from cspdet.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path, split: str = "train", classes: tuple[str, ...] | None = None) -> list[tuple[str, str]]:
    images = load_image_folder(root, split, classes)
    return [(images.name(i), images.classes[images.label[i]]) for i in range(len(images))]


def test_folders_give_sorted_classes_and_images(tmp_path):
    touch(tmp_path, "train/cat/b.JPEG", "train/cat/a.png", "train/ant/2.jpg", "train/ant/sub/1.webp", "train/ant/1.jpg")
    images = load_image_folder(tmp_path, "train")
    assert images.classes == ("ant", "cat")
    assert found(tmp_path) == [
        ("train/ant/1.jpg", "ant"),
        ("train/ant/2.jpg", "ant"),
        ("train/ant/sub/1.webp", "ant"),
        ("train/cat/a.png", "cat"),
        ("train/cat/b.JPEG", "cat"),
    ]
    assert images.label.dtype == np.int32
    assert images.counts.tolist() == [3, 2]
    assert images.path(0) == tmp_path / "train/ant/1.jpg"
    assert images.name(-1) == "train/cat/b.JPEG"
    assert images.warnings == ()
    with pytest.raises(IndexError):
        images.name(5)


def test_the_order_is_that_of_the_names_whatever_the_disk_says(tmp_path):
    order = [5, 3, 9, 0, 7, 1, 8, 2, 6, 4]
    touch(tmp_path, *(f"train/{c}/{i}.jpg" for c in "bca" for i in order))
    assert [name for name, _ in found(tmp_path)] == [f"train/{c}/{i}.jpg" for c in "abc" for i in range(10)]


def test_what_is_no_image_is_skipped_and_counted_and_what_is_hidden_is_not_seen(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/a/notes.txt", "train/a/._1.jpg", "train/.cache/x.jpg", "train/readme.md")
    touch(tmp_path, "train/a/.thumbs/1.jpg", "train/a/Thumbs.db")
    images = load_image_folder(tmp_path, "train")
    assert found(tmp_path) == [("train/a/1.jpg", "a")]
    beside, inside = images.warnings
    assert beside == f"{tmp_path}/train: files outside of the class folders skipped: readme.md"
    assert "files without an image suffix skipped: train/a/Thumbs.db; train/a/notes.txt" in inside


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "store/1.jpg", "store/deep/2.jpg", "train/b/3.jpg")
    (tmp_path / "train/a").symlink_to(tmp_path / "store")
    (tmp_path / "store/deep/up").symlink_to(tmp_path / "store")
    (tmp_path / "train/b/4.jpg").symlink_to(tmp_path / "store/1.jpg")
    assert [name for name, _ in found(tmp_path)] == [
        "train/a/1.jpg",
        "train/a/deep/2.jpg",
        "train/b/3.jpg",
        "train/b/4.jpg",
    ]
    (warning,) = load_image_folder(tmp_path, "train").warnings
    assert warning.endswith("links to folders that were already read skipped: train/a/deep/up")


def test_a_link_to_the_split_is_no_class(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg")
    (tmp_path / "train/latest").symlink_to(".")
    (tmp_path / "train/up").symlink_to("..")
    assert load_image_folder(tmp_path, "train").classes == ("a", "b")
    assert load_image_folder(tmp_path, "train").warnings[0].endswith("class folders skipped: latest; up")


def test_class_names_are_text_and_special_files_no_images(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "val/a/1.jpg")
    os.mkfifo(tmp_path / "train/a/2.jpg")
    assert found(tmp_path) == [("train/a/1.jpg", "a")]
    touch(tmp_path, os.fsdecode(b"train/caf\xe9/1.jpg"))
    with pytest.raises(DataError, match=r"name of class 1 is not valid text: 'caf\\udce9'"):
        load_image_folder(tmp_path, "train")


def test_lists_name_files_as_bytes(tmp_path):
    name = os.fsdecode(b"caf\xe9 1.jpg")
    touch(tmp_path, name)
    (tmp_path / "train.txt").write_bytes(b"caf\xe9 1.jpg\tcat\r\n" + b"caf\xe9 1.jpg 99999999999\n")
    images = load_image_folder(tmp_path, "train")
    assert images.path(0).is_file()
    assert images.classes == ("99999999999", "cat")


def test_file_names_need_not_be_text(tmp_path):
    (tmp_path / "train/ä b").mkdir(parents=True)
    raw = os.fsencode(tmp_path / "train/ä b") + b"/\xff.jpg"
    try:
        with open(raw, "wb"):
            pass
    except OSError:
        pytest.skip("a file system whose names are text")
    images = load_image_folder(tmp_path, "train")
    assert os.fsencode(images.path(0)) == raw


def test_val_has_the_classes_of_train(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "val/c/1.jpg", "val/a/2.jpg")
    images = load_image_folder(tmp_path, "val")
    assert images.classes == ("a", "b", "c")
    assert images.label.tolist() == [0, 2]
    assert images.warnings == (f"{tmp_path}/val: classes without a folder, so without images: b",)
    assert found(tmp_path, "val", ("c", "a")) == [("val/c/1.jpg", "c"), ("val/a/2.jpg", "a")]


def test_class_that_only_val_has_is_error(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "val/cat/1.jpg", "val/cta/1.jpg", "val/dog/1.jpg")
    with pytest.raises(DataError, match=r"val: class 'cta' is not one of the 1 classes") as error:
        load_image_folder(tmp_path, "val")
    assert "did you mean 'cat'?" in str(error.value)
    assert "the first of 2 such classes" in str(error.value)


def test_empty_class_folder_is_error_with_what_lies_in_it(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/x.txt", "train/b/y.txt")
    (tmp_path / "train/c").mkdir()
    with pytest.raises(
        DataError, match=r"train/b: no image in this class folder \(the first of 2 empty class folders\); 2 files"
    ):
        load_image_folder(tmp_path, "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "no train split; expected .*; the folder is empty"),
        (("cat/1.jpg", "dog/1.jpg"), "no train split; expected .*train/CLASS.* or .*train.txt; found cat, dog"),
        (("train/1.jpg",), "no class folders; expected .*; found 1.jpg"),
    ],
)
def test_folders_of_another_shape_are_reported(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(DataError, match=message):
        load_image_folder(tmp_path, "train")
    with pytest.raises(DataError, match="no such folder"):
        load_image_folder(tmp_path / "nowhere", "train")


def test_one_image_class_is_enough(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
    assert load_image_folder(tmp_path, "train").counts.tolist() == [1, 1]
    assert has_split(tmp_path, "train")
    assert not has_split(tmp_path, "val")


# --- lists -----------------------------------------------------------------------------------------


def test_list_keeps_its_order_and_may_name_classes(tmp_path):
    (tmp_path / "train.txt").write_text("x/2.jpg dog\nx/my cat.jpg cat\n\nx/1.jpg\thot dog\n/far/9.png dog\n")
    assert found(tmp_path) == [
        ("x/2.jpg", "dog"),
        ("x/my cat.jpg", "cat"),
        ("x/1.jpg", "hot dog"),
        ("/far/9.png", "dog"),
    ]
    images = load_image_folder(tmp_path, "train")
    assert images.classes == ("cat", "dog", "hot dog")
    assert images.path(3) == Path("/far/9.png")


def test_list_may_give_numbers_of_the_names_in_file(tmp_path):
    (tmp_path / "classes.txt").write_text("zebra\nant\n")
    (tmp_path / "train.txt").write_text("1.jpg 1\n2.jpg 0\n3.jpg zebra\n")
    assert found(tmp_path) == [("1.jpg", "ant"), ("2.jpg", "zebra"), ("3.jpg", "zebra")]
    (tmp_path / "val.txt").write_text("4.jpg 2\n")
    with pytest.raises(
        DataError, match=r"val\.txt: class '2' is not one of the 2 classes expected here \(zebra, ant\)"
    ):
        load_image_folder(tmp_path, "val")
    touch(tmp_path, "train/ant/1.jpg", "train/zebra/1.jpg")
    images = load_image_folder(tmp_path, "train")
    assert images.classes == ("zebra", "ant")  # the file's order holds for folders, too
    assert "read instead of train.txt" in images.warnings[0]


def test_numbers_without_names_are_reported(tmp_path):
    (tmp_path / "train.txt").write_text("a.jpg 2\nb.jpg 0\nc.jpg 1\n")
    (tmp_path / "val.txt").write_text("a.jpg 1\n")
    images = load_image_folder(tmp_path, "train")
    assert (images.classes, images.label.tolist()) == (("0", "1", "2"), [2, 0, 1])
    assert "named by their indices, 0 to 2" in images.warnings[0]
    val = load_image_folder(tmp_path, "val")
    assert (val.classes, val.label.tolist()) == (("0", "1", "2"), [1])
    (tmp_path / "train.txt").write_text("a.jpg 3\nb.jpg 0\n")
    with pytest.raises(DataError, match=r"no image of class '1' \(the first of 2 classes without one\)"):
        load_image_folder(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("1.jpg cat\njustapath.jpg\n", r"train\.txt:2: expected a path and a class, found 'justapath\.jpg'"),
        ("1.txt cat\n2.doc dog\n", "no images; known suffixes are"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_image_folder(tmp_path, "train")


def test_names_that_stand_twice_are_reported(tmp_path):
    (tmp_path / "classes.txt").write_text("crane\nant\ncrane\n")
    touch(tmp_path, "train/ant/1.jpg")
    with pytest.raises(
        DataError, match=r"classes\.txt: expected one class name per line, each once; found 'crane' twice"
    ):
        load_image_folder(tmp_path, "train")


def test_many_images_take_no_objects(tmp_path):
    (tmp_path / "train.txt").write_text("".join(f"folder/{i:06}.jpg {i % 7}\n" for i in range(20_000)))
    images = load_image_folder(tmp_path, "train")
    assert images.name(12_345) == "folder/012345.jpg"
    assert images.label[12_345] == 12_345 % 7
    assert images.nbytes == 20_000 * (len("folder/000000.jpg") + 4 + 8) + 8  # names, labels, offsets
