"""Missing data: the hint fits the descriptor, and only the default one leads to the built-in set."""

from __future__ import annotations

from pathlib import Path

import pytest

from cspdet.datasets.descriptor import load_dataset_config
from cspdet.errors import DataError

SPLITS = "train: {images: images, annotations: a.json}\n"


@pytest.mark.parametrize(("name", "built_in"), [("coco.yaml", True), ("mine.yaml", False)])
def test_moved_images(name: str, built_in: bool, tmp_path: Path):
    (tmp_path / name).write_text(SPLITS, encoding="utf-8")
    with pytest.raises(DataError) as moved:
        load_dataset_config(tmp_path / name).split("train")
    assert "no such folder" in str(moved.value)
    assert ("prepare-data shapes" in str(moved.value)) is built_in
    assert ("correct the paths" in str(moved.value)) is not built_in


@pytest.mark.parametrize(("name", "built_in"), [("coco.yaml", True), ("mine.yaml", False)])
def test_a_missing_descriptor(name: str, built_in: bool, tmp_path: Path):
    with pytest.raises(DataError, match="no such data descriptor") as missing:
        load_dataset_config(tmp_path / name)
    assert ("prepare-data shapes" in str(missing.value)) is built_in
    assert ("--data PATH" in str(missing.value)) is not built_in
