"""Near-duplicates: altered copies are found, different images are not, and the search is complete."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cspdet.datasets.checks import near_duplicates
from cspdet.datasets.checks.fingerprints import Fingerprints
from cspdet.datasets.checks.near_duplicates import (
    MAX_DISTANCE,
    DuplicateReport,
    count_bits,
    find_near_duplicates,
)
from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.formats.coco import CocoDataset, load_coco


def texture(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """(height, width, 3) uint8: blots of all sizes, as a photograph has them."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for cells in (4, 8, 16, 32, 64):
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32) / np.sqrt(cells)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = image.min(), image.max()
    return ((image - low) / (high - low) * 205 + 25).astype(np.uint8)


def write(folder: Path, split: str, images: dict[str, np.ndarray | bytes]) -> CocoDataset:
    """A split of these images, without boxes; bytes are written as they are."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    listed = []
    for number, (name, image) in enumerate(images.items()):
        data = image if isinstance(image, bytes) else encode(image, Path(name).suffix, 90)
        (folder / split / name).write_bytes(data)
        height, width = (50, 50) if isinstance(image, bytes) else image.shape[:2]
        listed.append({"id": number, "file_name": name, "height": height, "width": width})
    content = {"images": listed, "categories": [{"id": 1, "name": "thing"}], "annotations": []}
    (folder / f"{split}.json").write_text(json.dumps(content))
    return load_coco(SplitFiles(folder / split, folder / f"{split}.json"), split, allow_empty=True)


def encode(image: np.ndarray, suffix: str, quality: int) -> bytes:
    done, data = cv2.imencode(suffix, image, [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else [])
    assert done
    return bytes(data)


def names(report: DuplicateReport) -> set[tuple[str, str, bool]]:
    return {(*sorted((pair.first.path.name, pair.second.path.name)), pair.mirrored) for pair in report.pairs}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("change", "mirrored"),
    [
        ("recompressed", False),
        ("smaller", False),
        ("larger and stretched", False),
        ("brighter", False),
        ("grey", False),
        ("mirrored", True),
        ("mirrored, smaller and recompressed", True),
    ],
)
def test_copies_are_near_duplicates(tmp_path, change, mirrored, seed):
    original = texture(seed)
    copy = {
        "recompressed": cv2.imdecode(np.frombuffer(encode(original, ".jpg", 30), np.uint8), cv2.IMREAD_COLOR),
        "smaller": cv2.resize(original, (150, 112), interpolation=cv2.INTER_AREA),
        "larger and stretched": cv2.resize(original, (700, 480), interpolation=cv2.INTER_LINEAR),
        "brighter": (original.astype(np.int32) + 9).clip(0, 255).astype(np.uint8),
        "grey": cv2.cvtColor(cv2.cvtColor(original, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
        "mirrored": original[:, ::-1],
        "mirrored, smaller and recompressed": cv2.imdecode(
            np.frombuffer(encode(cv2.resize(original[:, ::-1], (160, 120)), ".jpg", 50), np.uint8), cv2.IMREAD_COLOR
        ),
    }[change]
    train = write(tmp_path, "train", {"a.png": original, "other.png": texture(90 + seed)})
    val = write(tmp_path, "val", {"b.jpg": np.ascontiguousarray(copy)})
    report = find_near_duplicates({"train": train, "val": val})
    assert names(report) == {("a.png", "b.jpg", mirrored)}
    assert (report.total_pairs, report.cross_split_pairs, report.images, report.low_contrast, report.unreadable) == (
        1,
        1,
        3,
        0,
        0,
    )
    (pair,) = report.pairs
    assert pair.is_cross_split
    assert (pair.first.split, pair.second.split) == ("train", "val")
    assert pair.distance <= MAX_DISTANCE
    assert pair.similarity > 0.75


def test_different_images_are_no_near_duplicates(tmp_path):
    train = write(tmp_path, "train", {f"{i}.jpg": texture(i, 96, 128) for i in range(25)})
    report = find_near_duplicates({"train": train})
    assert (report.pairs, report.total_pairs, report.complete) == ((), 0, True)


def test_even_lighting_alone_makes_no_near_duplicates(tmp_path):
    # All have equal hashes, brighter to the right and below; their blots differ.
    slope = np.add.outer(np.linspace(0, 90, 240), np.linspace(0, 90, 320))[..., None]
    images = {f"{i}.png": (slope + texture(i) * 0.15).astype(np.uint8) for i in range(4)}
    report = find_near_duplicates({"train": write(tmp_path, "train", {**images, "again.jpg": images["2.png"]})})
    assert names(report) == {("2.png", "again.jpg", False)}


def test_images_that_cannot_be_compared_are_counted(tmp_path):
    even = np.full((80, 80, 3), 128, np.uint8)
    slope = np.repeat(np.linspace(0, 255, 80).astype(np.uint8)[None, :, None], 80, axis=0).repeat(3, axis=2)
    train = write(
        tmp_path,
        "train",
        {
            "even.png": even,
            "even too.png": even,
            "slope.png": slope,
            "broken.jpg": b"\xff\xd8 no more",
            "a.png": texture(1),
        },
    )
    (tmp_path / "train" / "a.png").rename(tmp_path / "train" / "elsewhere.png")
    report = find_near_duplicates({"train": train})
    assert (report.images, report.low_contrast, report.unreadable, report.total_pairs) == (5, 3, 2, 0)


def test_a_file_that_two_splits_list_is_no_pair_with_itself(tmp_path):
    train = write(tmp_path, "train", {"a.png": texture(1)})
    assert find_near_duplicates({"train": train, "val": train}).total_pairs == 0
    assert find_near_duplicates({}) == DuplicateReport((), 0, 0, 0, 0, 0, True)


def test_the_best_come_first_and_the_rest_are_counted(tmp_path):
    image = texture(5)
    noisy = image.astype(np.float32) + np.random.default_rng(0).normal(0, 40, image.shape)
    images = {"a.png": image, "b.png": image, "c.png": noisy.clip(0, 255).astype(np.uint8)}
    report = find_near_duplicates({"train": write(tmp_path, "train", images)}, limit=1)
    assert names(report) == {("a.png", "b.png", False)}
    assert (report.pairs[0].distance, report.total_pairs, report.cross_split_pairs) == (0, 3, 0)
    assert report.pairs[0].similarity == pytest.approx(1, abs=1e-3)
    document = json.loads(json.dumps(report.to_json()))
    assert document["pairs"][0]["images"][1]["path"].endswith("b.png")
    assert {key: document[key] for key in ("total_pairs", "images", "complete")} == {
        "total_pairs": 3,
        "images": 3,
        "complete": True,
    }


def test_a_image_that_is_its_own_mirror_image_makes_one_pair(tmp_path):
    half = texture(7)[:, :160]
    whole = np.concatenate((half, half[:, ::-1]), axis=1)
    report = find_near_duplicates({"train": write(tmp_path, "train", {"a.png": whole, "b.png": whole.copy()})})
    assert names(report) == {("a.png", "b.png", False)}


# --- the search ----------------------------------------------------------------------------------


def prints_of(hashes: np.ndarray, mirrored: np.ndarray) -> Fingerprints:
    yes = np.ones(len(hashes), bool)
    return Fingerprints(hashes, mirrored, np.zeros((len(hashes), 1, 1), np.float16), yes, ~yes)


def close_by_brute_force(hashes: np.ndarray, mirrored: np.ndarray) -> dict[tuple[int, int, bool], int]:
    found = {}
    for i in range(len(hashes)):
        for j in range(i + 1, len(hashes)):
            plain = int((hashes[i] != hashes[j]).sum())
            flipped = min(int((hashes[i] != mirrored[j]).sum()), int((mirrored[i] != hashes[j]).sum()))
            found |= {(i, j, of): d for of, d in ((False, plain), (True, flipped)) if d <= MAX_DISTANCE}
    return found


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_the_search_finds_exactly_the_close_pairs(seed, count):
    rng = np.random.default_rng(seed)
    centers = rng.random((3, 128)) < 0.5
    hashes = centers[rng.integers(0, 3, count)] ^ (rng.random((count, 128)) < rng.uniform(0, 0.12, (count, 1)))
    mirrored = centers[rng.integers(0, 3, count)] ^ (rng.random((count, 128)) < 0.06)
    first, second, distance, flipped, complete = near_duplicates._candidate_pairs(prints_of(hashes, mirrored))
    found = {(int(i), int(j), bool(of)): int(d) for i, j, of, d in zip(first, second, flipped, distance, strict=True)}
    assert complete
    assert len(found) == len(first)
    assert found == close_by_brute_force(hashes, mirrored)


def test_a_search_that_would_take_too_long_says_that_it_is_incomplete(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MAX_COMPARISONS", 0)
    hashes = np.zeros((60, 128), bool)
    mirrored = ~hashes
    first, *_, complete = near_duplicates._candidate_pairs(prints_of(hashes, mirrored))
    assert not complete
    # each with the MIN_NEIGHBORS = 16 next in order: 60 * 16 less the 1 + ... + 16 beyond the end
    assert len(first) == 60 * 16 - 136


def test_more_candidates_than_are_kept_are_cut_to_the_nearest(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", 10)
    hashes = np.random.default_rng(0).random((1, 128)).repeat(40, axis=0) < 0.5
    hashes[20:, 3] ^= np.arange(20) % 2 == 0
    _, _, distance, _, complete = near_duplicates._candidate_pairs(
        prints_of(hashes, np.random.default_rng(1).random((40, 128)) < 0.5)
    )
    assert not complete
    assert distance.tolist() == [0] * 10


def test_bits_are_counted_with_and_without_the_help_of_numpy(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**64, (50, 2), dtype=np.uint64)
    expected = [bin(int(a)).count("1") + bin(int(b)).count("1") for a, b in words]
    assert count_bits(words).tolist() == expected
    table = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)
    monkeypatch.setattr(near_duplicates, "BIT_COUNTS", table)
    assert count_bits(words).tolist() == expected
