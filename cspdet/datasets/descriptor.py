"""The data descriptor: a YAML file that says where the pictures and COCO annotations of each split are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import model_validator

from cspdet.config.base import ConfigModel
from cspdet.config.loader import load_config
from cspdet.errors import DataError, did_you_mean

SPLITS = ("train", "val", "test")
BUILT_IN_DATASET_HINT = (
    "to start on the built-in set, run `cspdet prepare-data shapes --output data/shapes` "
    "and add `data=data/shapes.yaml` to your command"
)


class _SplitSection(ConfigModel):
    images: Path
    annotations: Path


class _DatasetConfigFile(ConfigModel):
    train: _SplitSection | None = None
    val: _SplitSection | None = None
    test: _SplitSection | None = None

    @model_validator(mode="after")
    def _check_has_split(self) -> _DatasetConfigFile:
        if all(getattr(self, name) is None for name in SPLITS):
            raise ValueError("no split; expected train, val or test, each with images and annotations")
        return self


@dataclass(frozen=True)
class SplitFiles:
    """The picture folder and the COCO annotation file of one split, as absolute paths."""

    images: Path
    annotations: Path


@dataclass(frozen=True)
class DatasetConfig:
    """The splits that a descriptor file names; None for those that it leaves out."""

    train: SplitFiles | None
    val: SplitFiles | None
    test: SplitFiles | None
    path: Path

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that are there."""
        return tuple(name for name in SPLITS if getattr(self, name) is not None)

    def split(self, name: str) -> SplitFiles:
        """The files of a split, which exist.

        Raises:
            DataError: no such split in the descriptor, or its files are missing, then with the ways on.
        """
        files = getattr(self, name) if name in SPLITS else None
        if files is None:
            known = ", ".join(self.splits)
            raise DataError(
                f"{display_path(self.path)}: no split {name!r}{did_you_mean(name, self.splits)}; it has {known}"
            )
        problems = []
        if not files.annotations.is_file():
            problems.append(f"{name}.annotations: no such file: {display_path(files.annotations)}")
        if not files.images.is_dir():
            problems.append(f"{name}.images: no such folder: {display_path(files.images)}")
        if problems:
            raise DataError(*(f"{display_path(self.path)}: {text}" for text in problems), *self._hints(files))
        return files

    def _hints(self, files: SplitFiles) -> tuple[str, str]:
        if self.path.stem == "coco":
            folder = display_path(files.images.parent)
            return f"to download COCO 2017, run `cspdet prepare-data coco --output {folder}`", BUILT_IN_DATASET_HINT
        return (
            f"correct the paths in {display_path(self.path)}, which are relative to its own folder",
            BUILT_IN_DATASET_HINT,
        )


def load_dataset_config(path: str | Path) -> DatasetConfig:
    """Read and check a descriptor. Its paths are relative to it and may not exist (see `Descriptor.split`).

    Raises:
        DataError: there is no such file.
        ConfigError: it is not a descriptor; one line for each mistake.
    """
    path = Path(path).absolute()
    if not path.is_file():
        siblings = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise DataError(
            f"{display_path(path)}: no such data descriptor{did_you_mean(path.name, siblings)}", BUILT_IN_DATASET_HINT
        )
    content = load_config(path, _DatasetConfigFile)

    def files(section: _SplitSection | None) -> SplitFiles | None:
        return (
            None
            if section is None
            else SplitFiles(_normalize_path(section.images), _normalize_path(section.annotations))
        )

    return DatasetConfig(files(content.train), files(content.val), files(content.test), path)


def _normalize_path(path: Path) -> Path:
    return Path(os.path.normpath(path))


def display_path(path: Path) -> str:
    """A path as messages show it: relative to the working directory when it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
