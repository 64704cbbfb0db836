"""Split of a detection dataset as flat arrays, for training, evaluation and `check-data`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.formats.coco_json import Annotations, read_annotations
from cspdet.datasets.image_io import read_image, read_image_header
from cspdet.datasets.issues import IssueCounter
from cspdet.errors import DataError
from cspdet.structures import Categories

CLIP_TOLERANCE = 1.0  # pixels; boxes that extend less beyond their image are clipped without a warning
CHUNK_SIZE = 256  # images per task of a thread


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """Split of a COCO dataset: N images with M boxes.

    The arrays are flat, so that forked loader processes share them without a copy.
    """

    classes: Categories
    image_id: np.ndarray  # (N,) int64, image ids in file order
    size_hw: np.ndarray  # (N, 2) int32, height and width of the upright images
    names: bytes  # concatenated file names, in the encoding of the file system
    name_start: np.ndarray  # (N + 1,) int64, offsets into `names`
    box_xyxy: np.ndarray  # (M, 4) float32, image pixels, inside the image, sorted by image
    box_class: np.ndarray  # (M,) int32
    box_crowd: np.ndarray  # (M,) bool
    box_start: np.ndarray  # (N + 1,) int64, offsets of the boxes of each image
    warnings: tuple[str, ...]  # one message per type of skipped or clipped box, with its count
    files: SplitFiles

    def __len__(self) -> int:
        return len(self.image_id)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.files.images / self.name(index)

    def name(self, index: int) -> str:
        """Return the file name of an image in the annotations."""
        index = range(len(self))[index]
        return self.names[self.name_start[index] : self.name_start[index + 1]].decode("utf-8", "surrogateescape")

    def boxes(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the n boxes of an image.

        Returns:
            (n, 4) float32 x1, y1, x2, y2 in image pixels; (n,) int64 class indices; (n,) bool, whether a box is a
            crowd.
        """
        index = range(len(self))[index]
        local = slice(self.box_start[index], self.box_start[index + 1])
        return self.box_xyxy[local].copy(), self.box_class[local].astype(np.int64), self.box_crowd[local].copy()

    @property
    def nbytes(self) -> int:
        """Size of the dataset in memory, in bytes."""
        arrays = (value for value in vars(self).values() if isinstance(value, np.ndarray))
        return len(self.names) + sum(array.nbytes for array in arrays)


def load_coco(files: SplitFiles, split: str, *, allow_empty: bool = False) -> CocoDataset:
    """Read a split.

    Args:
        files: Images and annotations of the split, from `DatasetConfig.split`.
        split: Name of the split; a split named train must have boxes.
        allow_empty: Accept a file without annotations (COCO's test sets) or without boxes.

    Raises:
        DataError: The annotation file has errors; one line per type of error, with its count and first examples.
    """
    annotations = read_annotations(files, allow_empty=allow_empty)
    if annotations.problems:
        raise DataError(*annotations.problems)
    coco = to_arrays(annotations, files)
    if split == "train" and not allow_empty and coco.box_crowd.all():
        found = "no boxes except crowds" if len(coco.box_crowd) else "no boxes"
        raise DataError(f"{files.annotations}: {found}; a train split needs some", *coco.warnings)
    return coco


def to_arrays(annotations: Annotations, files: SplitFiles) -> CocoDataset:
    """Convert valid annotations to a dataset: sort them by image, and clip the boxes to the images.

    `warnings` of the result counts the skipped and the clipped boxes.
    """
    issues = IssueCounter(str(files.annotations))
    box_xyxy, is_kept = _clip_boxes(annotations, issues)
    (kept,) = np.nonzero(is_kept)
    kept = kept[np.argsort(annotations.image_index[kept], kind="stable")]
    count = np.bincount(annotations.image_index[kept], minlength=len(annotations.image_id))
    return CocoDataset(
        classes=annotations.classes,
        image_id=annotations.image_id,
        size_hw=annotations.size_hw,
        names=annotations.names,
        name_start=annotations.name_start,
        box_xyxy=box_xyxy[kept],
        box_class=annotations.class_id[kept].astype(np.int32),
        box_crowd=annotations.records["crowd"][kept].astype(bool),
        box_start=np.concatenate(([0], np.cumsum(count))).astype(np.int64),
        warnings=(*annotations.notes, *issues.lines()),
        files=files,
    )


def _clip_boxes(annotations: Annotations, issues: IssueCounter) -> tuple[np.ndarray, np.ndarray]:
    """Clip the boxes to their images, and count the clipped and the invalid boxes in `issues`.

    Returns:
        (M, 4) float32 x1, y1, x2, y2; and (M,) bool, False for boxes without area or outside their image.
    """
    records = annotations.records
    limit_wh = annotations.size_hw[annotations.image_index][:, ::-1].astype(np.float64)
    low, size_wh = records["xywh"][:, :2], records["xywh"][:, 2:]
    with np.errstate(over="ignore"):  # 1e308 + 1e308 is inf, which is outside every image
        high = low + size_wh
    beyond = np.maximum(-low, high - limit_wh).max(axis=1, initial=-np.inf)
    corners = np.concatenate((np.clip(low, 0, limit_wh), np.clip(high, 0, limit_wh)), axis=1)
    box_xyxy = corners.astype(np.float32)
    flat = (size_wh <= 0).any(axis=1)
    outside = ~flat & ((low >= limit_wh) | (high <= 0)).any(axis=1)
    # rounding to float32 can reduce the size of a box to 0
    flat |= ~outside & (box_xyxy[:, 2:] <= box_xyxy[:, :2]).any(axis=1)
    clipped = ~flat & ~outside & (beyond > CLIP_TOLERANCE)

    def add_issue(mask: np.ndarray, description: str) -> None:
        count = int(mask.sum())
        issue_type = f"{count} box{'' if count == 1 else 'es'} {description}"
        issues.add_where(issue_type, mask, lambda i: f"image {records['image_id'][i]} {records['xywh'][i].tolist()}")

    add_issue(flat, "without width or height skipped")
    add_issue(outside, "completely outside the image skipped")
    add_issue(clipped, "partly outside the image clipped to it")
    return box_xyxy, ~(flat | outside)


def check_image_files(coco: CocoDataset, *, decode: bool = False) -> list[str]:
    """Check the image files of a split.

    Args:
        coco: The split.
        decode: Whether to decode the images. If not, only the headers are read, thousands per second.

    Returns:
        One message per image that is missing, is unreadable, or has another size than in the annotations.
    """

    def check(start: int) -> list[str]:
        lines = (_image_file_error(coco, i, decode) for i in range(start, min(start + CHUNK_SIZE, len(coco))))
        return [line for line in lines if line]

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as threads:
        results: Iterable[list[str]] = threads.map(check, range(0, len(coco), CHUNK_SIZE))
        return [line for lines in results for line in lines]


def _image_file_error(coco: CocoDataset, index: int, decode: bool) -> str:
    path = coco.path(index)
    try:
        header = read_image_header(path)
        if decode:
            read_image(path)
    except DataError as error:
        return error.problems[0]
    expected, found = tuple(coco.size_hw[index].tolist()), header.size_hw
    if expected == found:
        return ""
    line = f"{path}: the file is {found[1]}x{found[0]} (width x height)"
    line += f", the annotations say {expected[1]}x{expected[0]}"
    if expected == header.stored_hw:
        line += f"; they agree only before the file's EXIF orientation ({header.orientation}) is applied"
    return line
