"""Download COCO 2017, with resume of partial downloads, verified sizes and counts, and atomic unpacking."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cspdet.datasets.archives import unpack_zip
from cspdet.datasets.formats.coco_writer import ConversionResult, format_dataset_config, was_written_by
from cspdet.errors import DataError, UserError
from cspdet.io.atomic import write_text
from cspdet.io.fetch import CHUNK_BYTES, fetch, file_size, partial_path

BASE_URL = "http://images.cocodataset.org"

log = logging.getLogger("cspdet")


@dataclass(frozen=True)
class Archive:
    """Zip file of the COCO server, with its expected size and content."""

    url: str  # relative to the base URL
    size: int | None  # bytes; None if unknown
    folder: str  # top-level folder in the archive
    num_images: int | None = None  # number of files in `folder` after unpacking; None for annotations

    @property
    def name(self) -> str:
        """The file name."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class CocoSplit:
    """Image archive, annotation archive and annotation file of a split."""

    images: Archive
    annotations: Archive
    annotation_file: str


_INSTANCES = Archive("annotations/annotations_trainval2017.zip", 252_907_541, "annotations")
COCO_2017 = {
    "train": CocoSplit(
        Archive("zips/train2017.zip", 19_336_861_798, "train2017", 118_287),
        _INSTANCES,
        "annotations/instances_train2017.json",
    ),
    "val": CocoSplit(
        Archive("zips/val2017.zip", 815_585_330, "val2017", 5_000),
        _INSTANCES,
        "annotations/instances_val2017.json",
    ),
    "test": CocoSplit(
        Archive("zips/test2017.zip", 6_646_970_404, "test2017", 40_670),
        Archive("annotations/image_info_test2017.zip", None, "annotations"),
        "annotations/image_info_test-dev2017.json",
    ),
}


def download_coco(
    output: str | Path,
    *,
    splits: Sequence[str] = ("train", "val"),
    base_url: str = BASE_URL,
    split_specs: dict[str, CocoSplit] = COCO_2017,
    max_attempts: int = 10,
    retry_delay_s: float = 5.0,
) -> ConversionResult:
    """Download the missing parts of COCO 2017 and write `output`/coco.yaml.

    Complete folders and annotation files are kept; other files in `output` are not changed. A partial download is
    resumed.

    Args:
        output: The folder to download to.
        splits: The splits to download.
        base_url: URL of the server or of a mirror.
        split_specs: The archives of each split.
        max_attempts: Maximum number of attempts per archive.
        retry_delay_s: Seconds between attempts.

    Raises:
        UserError: The network or the server fails, there is not enough disk space, or the server declares another file
            size.
        DataError: An archive or folder does not have the content of COCO 2017, or coco.yaml is a file of the user.
    """
    output = Path(output)
    config_path = output / "coco.yaml"
    if config_path.exists() and not was_written_by(config_path, "coco"):
        raise DataError(f"{config_path}: exists, and cspdet did not write it; it is kept: expected another --output")
    requested = [(name, split_specs[name]) for name in split_specs if name in splits]
    missing, warnings = _find_missing(output, [split for _, split in requested])
    _check_free_space(output, missing)
    for archive, files in missing.items():
        url = f"{base_url.rstrip('/')}/{archive.url}"
        zip_file = output / archive.name
        is_new = fetch(
            url, zip_file, archive.size, max_attempts=max_attempts, retry_delay_s=retry_delay_s,
            hint="; the built-in dataset (prepare-data shapes) needs no network",
        )  # fmt: skip
        _unpack(archive, output, files)
        if is_new:  # an archive that the user downloaded is kept
            zip_file.unlink()
    counts = {
        name: {"images": split.images.num_images or 0, "boxes": _count_boxes(output / split.annotation_file)}
        for name, split in requested
    }
    described = {
        name: (split.images.folder, split.annotation_file)
        for name, split in split_specs.items()
        if (output / split.images.folder).is_dir() and (output / split.annotation_file).is_file()
    }
    write_text(config_path, format_dataset_config("coco", described))
    return ConversionResult(config_path, counts, tuple(warnings))


def _unpack(archive: Archive, output: Path, files: Sequence[str]) -> None:
    """Unpack the image folder of an image archive, or only `files` of an annotation archive."""
    zip_file = output / archive.name
    log.info("unpacking %s", zip_file)
    if archive.num_images is None:
        unpack_zip(zip_file, output, files=files)
    else:
        unpack_zip(zip_file, output, folder=archive.folder, num_files=archive.num_images)


def _find_missing(output: Path, splits: list[CocoSplit]) -> tuple[dict[Archive, list[str]], list[str]]:
    """Return missing archives -> annotation files to unpack ([] for images), and messages about files that are kept."""
    missing: dict[Archive, list[str]] = {}
    warnings = []
    if output.exists() and not output.is_dir():
        raise DataError(f"{output}: expected a folder to write to, found a file")
    for split in splits:
        if (output / split.annotation_file).is_file():
            warnings.append(f"{output / split.annotation_file} exists and was kept")
        else:
            missing.setdefault(split.annotations, []).append(split.annotation_file)
    for split in splits:
        folder = output / split.images.folder
        if not folder.is_dir() or not any(folder.iterdir()):
            missing[split.images] = []
            continue
        num_images = sum(1 for path in folder.iterdir() if path.suffix.lower() == ".jpg")
        if num_images != split.images.num_images:
            raise DataError(
                f"{folder}: expected the {split.images.num_images} images of COCO 2017, found {num_images}; "
                "move the folder away to download it again"
            )
        warnings.append(f"{folder} is complete ({num_images} images) and was kept")
    return missing, warnings


def _check_free_space(output: Path, missing: dict[Archive, list[str]]) -> None:
    """Raise UserError if all archives and the unpacked files of the largest one do not fit on the disk together."""
    downloaded = sum(max(file_size(output / a.name), file_size(partial_path(output / a.name))) for a in missing)
    sizes = [archive.size or 0 for archive in missing]
    needed = sum(sizes) + max(sizes, default=0) - downloaded
    base = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(base).free
    if free < needed:
        raise UserError(
            f"{output}: {needed / 1e9:.1f} GB are needed to download and unpack, {free / 1e9:.1f} GB are free"
        )


def _count_boxes(file: Path) -> int:
    """Count the boxes of a COCO file without parsing all of it, which would need 3 GB of memory."""
    count, rest = 0, b""
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            count += (rest + chunk).count(b'"bbox"')
            rest = chunk[-5:]  # shorter than the searched text, so nothing is counted twice
    return count
