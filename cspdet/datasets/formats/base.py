"""Interface of dataset formats, and their registry.

A format reads a dataset (`read`): class names, and the images of each split with their boxes.
`cspdet prepare-data convert` writes the result as COCO JSON. A data descriptor (`format:`, `source:`) uses a dataset
without conversion. A built-in format is a subclass of `DatasetFormat` in its own file and an entry in
`DATASET_FORMATS`. A user-defined format is such a subclass, selected as `module:Class`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cspdet.config.base import ComponentConfig, ConfigModel
from cspdet.config.loader import parse_config
from cspdet.config.registry import Registry, component
from cspdet.datasets.formats.coco_writer import (
    SPLITS,
    CocoImage,
    ConversionResult,
    check_output_folder,
    write_coco_dataset,
)
from cspdet.datasets.formats.names import class_name_problems, file_name_error
from cspdet.errors import ConfigError, DataError, did_you_mean, truncate_list

DATASET_FORMATS = Registry(
    "dataset format",
    {
        "coco": "cspdet.datasets.formats.coco_format:CocoFormat",
        "voc": "cspdet.datasets.formats.voc:VocFormat",
        "yolo": "cspdet.datasets.formats.yolo:YoloFormat",
    },
)


@dataclass(frozen=True)
class SplitContent:
    """The images of one split, with the folder that contains them."""

    folder: Path  # image folder; file names are relative to it
    images: tuple[CocoImage, ...]


@dataclass(frozen=True)
class DatasetContent:
    """A dataset as returned by `DatasetFormat.read`; splits without images are left out.

    Raises:
        DataError: A split is not train, val or test, a class name is empty or not unique, a file name cannot be used in
            annotations, or there are no images.
    """

    categories: Mapping[int, str]  # category id -> class name; class indices follow the ascending ids
    splits: Mapping[str, SplitContent]  # train, val and test, if they exist
    warnings: tuple[str, ...] = ()  # one message per type of skipped, clipped or kept entry, with its count

    def __post_init__(self) -> None:
        problems = [
            f"split {name!r}: expected {', '.join(SPLITS)}{did_you_mean(name, SPLITS)}"
            for name in self.splits
            if name not in SPLITS
        ]
        problems += class_name_problems(tuple(self.categories.values()), "categories")
        problems += [
            f"{split.folder / image.file_name}: its name cannot be used in annotations: it {reason}; rename the file"
            for split in self.splits.values()
            for image in split.images
            if (reason := file_name_error(image.file_name))
        ]
        splits = {name: split for name, split in self.splits.items() if split.images}
        if not splits and not problems:
            problems = ["expected images in at least one split, found none"]
        if problems:
            raise DataError(*truncate_list(problems))
        object.__setattr__(self, "splits", splits)


class DatasetFormat(ComponentConfig):
    """Base class of the formats in which a detection dataset is stored on disk.

    The fields of a subclass are the options of the format. Users set them as keys of `format:` in a data descriptor, or
    as `key=value` arguments of `cspdet prepare-data convert`.
    """

    @property
    def converter(self) -> str:
        """Arguments with which `cspdet prepare-data` converts this format."""
        return f"convert --format {self.name}"

    @classmethod
    def recognizes(cls, source: Path) -> bool:
        """Return whether a file or folder looks like a dataset of this format.

        Only file names and the first lines of files are checked.

        Args:
            source: A path that exists.
        """
        return False

    def read(self, source: Path) -> DatasetContent:
        """Read a dataset.

        Args:
            source: The file or folder of the dataset.

        Raises:
            DataError: The files have errors. The message lists the first errors, and the number of the others.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method read")

    def convert(self, source: str | Path, output: str | Path) -> ConversionResult:
        """Convert a dataset to COCO JSON and a data descriptor; its images are not copied.

        Args:
            source: The file or folder of the dataset.
            output: The output folder: new, empty, or an earlier output of the same format.

        Raises:
            DataError: The dataset has errors, or `output` contains the dataset or other files.
        """
        source, output = Path(source), Path(output)
        check_output_folder(output, self.converter)
        real_source = Path(os.path.realpath(source))
        if Path(os.path.realpath(output)) in (real_source, *real_source.parents):
            raise DataError(f"{output}: contains the dataset {source}, which is kept: expected another --output")
        content = self.read(source)
        splits = {name: (split.folder, split.images) for name, split in content.splits.items()}
        return write_coco_dataset(output, self.converter, content.categories, splits, content.warnings)


FormatField = Annotated[DatasetFormat, component(DATASET_FORMATS)]


class _FormatChoice(ConfigModel):
    format: FormatField = Field(description="The dataset format, with its options.")


def build_format(name: str, options: tuple[str, ...] | list[str] = ()) -> DatasetFormat:
    """Build the format that the user selected on the command line.

    Args:
        name: A name in `DATASET_FORMATS`, or `module:Class`.
        options: Options of the format, given as `key=value`.

    Raises:
        ConfigError: The format is unknown, or options are invalid; one line per option.
    """
    overrides = [f"format.name={name}", *(f"format.{option}" for option in options)]
    chosen = parse_config({"format": {"name": name}}, _FormatChoice, "command line", overrides).format
    if not isinstance(chosen, DatasetFormat):
        raise ConfigError(f"--format {name}: expected a subclass of cspdet.datasets.formats.base.DatasetFormat")
    return chosen


def recognize_format(source: Path) -> str:
    """Find the built-in format of a dataset.

    Returns:
        The name of the format in `DATASET_FORMATS`.

    Raises:
        DataError: The path does not exist, no format recognizes it, or several formats do.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    names = [name for name in DATASET_FORMATS.names() if DATASET_FORMATS.get(name).recognizes(source)]
    if len(names) != 1:
        found = " and ".join(names) or "none of them"
        raise DataError(
            f"{source}: the format is not clear from the files: expected one of "
            f"{', '.join(DATASET_FORMATS.names())}, found {found}; add --format NAME"
        )
    return names[0]
