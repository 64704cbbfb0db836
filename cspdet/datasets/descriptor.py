"""Data descriptors: YAML files with the locations of the images and annotations of each split.

    train: {images: train2017, annotations: annotations/instances_train2017.json}
    val: {images: val2017, annotations: annotations/instances_val2017.json}

For a dataset in another format than COCO JSON, a descriptor names the format and the file or folder of the dataset:

    format: yolo                # or {name: voc, one_based: false}, or mymodule:MyFormat
    source: ../yolo_data
"""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, model_validator

from cspdet.config.base import ConfigModel
from cspdet.config.loader import load_config
from cspdet.config.user_modules import forbid_user_modules
from cspdet.datasets.formats.base import DATASET_FORMATS, FormatField
from cspdet.datasets.formats.coco_writer import SPLITS, coco_json
from cspdet.errors import ConfigError, DataError, did_you_mean
from cspdet.io.text import open_file

log = logging.getLogger("cspdet")

BUILT_IN_DATASET_HINT = (
    "to start on the built-in set, run `cspdet prepare-data shapes --output data/shapes` "
    "and add `--data data/shapes/shapes.yaml` to your command"
)


class SplitConfig(ConfigModel):
    """One split of a dataset with COCO annotations."""

    images: Path = Field(description="Folder of the images.")
    annotations: Path = Field(description="COCO JSON file.")


class DescriptorConfig(ConfigModel):
    """Schema of a data descriptor: either splits, or a format and a source."""

    train: SplitConfig | None = Field(None, description="Images and annotations to train on.")
    val: SplitConfig | None = Field(None, description="Images and annotations to evaluate on.")
    test: SplitConfig | None = Field(None, description="Images and annotations of the final test.")
    format: FormatField | None = Field(None, description="Format of `source`: a name, or a mapping with its options.")
    source: Path | None = Field(None, description="File or folder of a dataset in `format`, with all its splits.")

    @model_validator(mode="after")
    def _check_has_split(self) -> DescriptorConfig:
        has_split = any(getattr(self, name) is not None for name in SPLITS)
        if (self.format is None) != (self.source is None):
            raise ValueError("expected format and source together: format is the dataset format of source")
        if self.format is not None and has_split:
            raise ValueError("expected either format and source, or splits with images and annotations, found both")
        if self.format is None and not has_split:
            raise ValueError("no split; expected train, val or test, each with images and annotations")
        return self


@dataclass(frozen=True)
class SplitFiles:
    """The image folder and the annotations of one split; the paths are absolute."""

    images: Path
    annotations: Path  # COCO JSON, or the source of a dataset in another format
    content: bytes | None = field(default=None, repr=False)  # COCO JSON in memory, converted from another format

    def read_annotations(self) -> bytes:
        """Return the COCO JSON of the split.

        Raises:
            OSError: The annotation file cannot be read.
        """
        if self.content is not None:
            return self.content
        with open_file(self.annotations) as file:
            return file.read()


@dataclass(frozen=True)
class DatasetConfig:
    """The splits of a dataset; a split that does not exist is None."""

    train: SplitFiles | None
    val: SplitFiles | None
    test: SplitFiles | None
    path: Path

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the existing splits."""
        return tuple(name for name in SPLITS if getattr(self, name) is not None)

    def split(self, name: str) -> SplitFiles:
        """Check that the files of a split exist, and return them.

        Raises:
            DataError: The descriptor has no such split, or files are missing; the message includes hints.
        """
        files = getattr(self, name) if name in SPLITS else None
        if files is None:
            known = ", ".join(self.splits)
            raise DataError(
                f"{display_path(self.path)}: no split {name!r}{did_you_mean(name, self.splits)}; it has {known}"
            )
        problems = []
        if files.content is None and not files.annotations.is_file():
            problems.append(f"{name}.annotations: no such file: {display_path(files.annotations)}")
        if not files.images.is_dir():
            problems.append(f"{name}.images: no such folder: {display_path(files.images)}")
        if problems:
            raise DataError(*(f"{display_path(self.path)}: {text}" for text in problems), *self._hints(files))
        return files

    def _hints(self, files: SplitFiles) -> tuple[str, ...]:
        if self.path.stem == "coco":
            return _download_hint(files.images.parent), BUILT_IN_DATASET_HINT
        return (
            f"correct the paths in {display_path(self.path)}, which are relative to its own folder; if the dataset was "
            "moved, move the descriptor with it or convert it again",
        )


def _download_hint(folder: Path) -> str:
    return f"to download COCO 2017, run `cspdet prepare-data coco --output {display_path(folder)}`"


def load_dataset_config(path: str | Path, *, named_by_user: bool = True) -> DatasetConfig:
    """Read and check a descriptor; if it has `format` and `source`, also read the dataset.

    Paths in a descriptor are relative to its folder. Missing files of a split are reported by `DatasetConfig.split`.

    Args:
        path: The YAML file.
        named_by_user: True if the user specified the file, False if a checkpoint did. If False, the module of a
            user-defined format is not imported.

    Raises:
        DataError: The file does not exist, or the source has errors.
        ConfigError: The file is not a valid descriptor; one line per error.
    """
    path = Path(path).absolute()
    if not path.is_file():
        siblings = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        problem = f"{display_path(path)}: no such data descriptor{did_you_mean(path.name, siblings)}"
        if path.stem == "coco":  # the default of the released configs
            folder = path.parent if path.parent.name == "coco" else path.parent / "coco"
            raise DataError(problem, _download_hint(folder), BUILT_IN_DATASET_HINT)
        raise DataError(f"{problem}; if the dataset was moved, name its descriptor: --data PATH")
    config = _load(path, named_by_user=named_by_user)
    splits = _read_source(config) if config.format is not None else _split_files(config)
    return DatasetConfig(splits.get("train"), splits.get("val"), splits.get("test"), path)


def _load(path: Path, *, named_by_user: bool) -> DescriptorConfig:
    with nullcontext() if named_by_user else forbid_user_modules():
        try:
            return load_config(path, DescriptorConfig)
        except ConfigError as error:
            raise ConfigError(*error.problems, *_format_hint(path)) from None


def _format_hint(path: Path) -> list[str]:
    """Return a list with the command that converts `path` if it is the YAML file of a YOLO dataset; else []."""
    if not DATASET_FORMATS.get("yolo").recognizes(path):
        return []
    file = display_path(path)
    return [f"{file} describes a YOLO dataset: convert it with `cspdet prepare-data yolo {file} --output data/mine`"]


def _split_files(config: DescriptorConfig) -> dict[str, SplitFiles]:
    sections = {name: getattr(config, name) for name in SPLITS}
    return {
        name: SplitFiles(_normalize_path(section.images), _normalize_path(section.annotations))
        for name, section in sections.items()
        if section is not None
    }


def _read_source(config: DescriptorConfig) -> dict[str, SplitFiles]:
    """Read a dataset in another format; return its splits as COCO JSON in memory. Warnings of the format are logged."""
    assert config.format is not None
    assert config.source is not None
    source = _normalize_path(config.source)
    if not source.exists():
        raise DataError(f"source: no such file or folder: {display_path(source)}")
    dataset = config.format.read(source)
    for warning in dataset.warnings:
        log.warning("%s: %s", display_path(source), warning)
    files, first_id = {}, 1
    for name, split in dataset.splits.items():
        text = coco_json(dataset.categories, split.images, first_id)
        files[name] = SplitFiles(Path(os.path.abspath(split.folder)), source, text.encode("utf-8", "surrogateescape"))
        first_id += len(split.images)
    return files


def _normalize_path(path: Path) -> Path:
    return Path(os.path.normpath(path))


def display_path(path: Path) -> str:
    """Format a path for messages; a path inside the working directory is shown relative to this directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
