"""Download COCO 2017: resumes partial downloads, verifies sizes and counts, unpacks atomically."""

from __future__ import annotations

import http.client
import logging
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cspdet.datasets.archives import unpack_zip
from cspdet.datasets.formats.coco_writer import ConversionResult, format_dataset_config
from cspdet.errors import DataError, UserError
from cspdet.io.atomic import write_text

BASE_URL = "http://images.cocodataset.org"
CHUNK_BYTES = 1 << 20
LOG_INTERVAL_S = 15.0

log = logging.getLogger("cspdet")


@dataclass(frozen=True)
class Archive:
    """One zip file of the official site, and its content."""

    url: str  # below the base URL
    size: int | None  # bytes; None where only the server knows
    folder: str  # that it unpacks to
    num_images: int | None = None  # files in `folder` after unpacking; None for annotations

    @property
    def name(self) -> str:
        """The file name."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class CocoSplit:
    """One split: its images and their annotation file."""

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
        base_url: The server, or a mirror of it.
        split_specs: What there is to download; the archives of COCO 2017.
        max_attempts: Attempts per archive.
        retry_delay_s: Seconds between attempts.

    Raises:
        UserError: no network, no space, or a server that sends other files.
        DataError: an archive or a folder with other content than COCO 2017.
    """
    output = Path(output)
    requested = [(name, split_specs[name]) for name in split_specs if name in splits]
    missing, warnings = _find_missing(output, [split for _, split in requested])
    _check_free_space(output, missing)
    for archive, files in missing.items():
        url = f"{base_url.rstrip('/')}/{archive.url}"
        fetch(url, output / archive.name, archive.size, max_attempts=max_attempts, retry_delay_s=retry_delay_s)
        _unpack(archive, output, files)
    counts = {
        name: {"images": split.images.num_images or 0, "boxes": _count_boxes(output / split.annotation_file)}
        for name, split in requested
    }
    described = {
        name: (split.images.folder, split.annotation_file)
        for name, split in split_specs.items()
        if (output / split.images.folder).is_dir() and (output / split.annotation_file).is_file()
    }
    write_text(output / "coco.yaml", format_dataset_config("coco", described))
    return ConversionResult(output / "coco.yaml", counts, tuple(warnings))


def _unpack(archive: Archive, output: Path, files: Sequence[str]) -> None:
    """Unpack the images, or `files` of an archive of annotations, and delete the archive."""
    zip_file = output / archive.name
    log.info("unpacking %s", zip_file)
    if archive.num_images is None:
        unpack_zip(zip_file, output, files=files)
    else:
        unpack_zip(zip_file, output, folder=archive.folder, num_files=archive.num_images)
    zip_file.unlink()


def _find_missing(output: Path, splits: list[CocoSplit]) -> tuple[dict[Archive, list[str]], list[str]]:
    """The archives to download, with the annotation files to unpack of each, and notes about what exists already."""
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
    """Check the space for all archives and, at the same time, the unpacked files of the largest one."""
    downloaded = sum(max(_file_size(output / a.name), _file_size(_partial_path(output / a.name))) for a in missing)
    sizes = [archive.size or 0 for archive in missing]
    needed = sum(sizes) + max(sizes, default=0) - downloaded
    base = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(base).free
    if free < needed:
        raise UserError(
            f"{output}: {needed / 1e9:.1f} GB are needed to download and unpack, {free / 1e9:.1f} GB are free"
        )


def _partial_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _file_size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def fetch(url: str, file: Path, size: int | None, *, max_attempts: int = 10, retry_delay_s: float = 5.0) -> None:
    """Download a file; resumes `file`.part if it exists.

    Args:
        url: What to download.
        file: Where to; kept if it exists with the expected size.
        size: Expected size in bytes; None: any.
        max_attempts: Number of attempts; one that received no data is the last.
        retry_delay_s: Seconds between attempts.

    Raises:
        UserError: the server cannot be reached, refuses, interrupts too often, or announces another size.
    """
    if file.is_file() and (size is None or file.stat().st_size == size):
        return
    part = _partial_path(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        before = _file_size(part)
        for attempt in range(1, max_attempts + 1):
            reason = _try_download(url, part, size)
            if reason is None:
                part.replace(file)
                return
            if attempt == max_attempts or _file_size(part) == before:
                break  # no data received: further attempts are pointless
            log.warning("%s: %s; trying again (%d of %d)", url, reason, attempt + 1, max_attempts)
            time.sleep(retry_delay_s)
    except OSError as error:
        raise UserError(f"{part}: cannot be written: {error.strerror or error}") from None
    received = _file_size(part)
    hint = "; the built-in dataset (prepare-data shapes) needs no network"
    if received:
        hint = f"; {received} bytes are kept in {part}, run the command again to resume"
    raise UserError(f"{url}: download failed: {reason}{hint}")


def _try_download(url: str, part: Path, size: int | None) -> str | None:
    """Download the rest of `part`; None when it is complete, otherwise why it is not."""
    received = _file_size(part)
    if received and received == size:
        return None
    if size is not None and received > size:
        part.unlink()
        received = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={received}-"} if received else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and received:  # the part does not belong to this file: start again
            part.unlink()
            return _try_download(url, part, size)
        if error.code >= 500:
            return f"the server responded {error.code} {error.reason}"
        raise UserError(f"{url}: the server responded {error.code} {error.reason}") from None
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
        ValueError,
    ) as error:
        return f"the server cannot be reached ({getattr(error, 'reason', error)})"
    with response:
        if response.status != 206:
            received = 0  # the server sends the whole file
        total = received + int(response.headers.get("Content-Length") or 0)
        if size is not None and total != size:
            raise UserError(f"{url}: expected {size} bytes, the server announces {total}; is it the official file?")
        return _write_response(response, part, received, total)


def _write_response(response: http.client.HTTPResponse, part: Path, received: int, total: int) -> str | None:
    last_log_time = time.monotonic()
    with part.open("ab" if received else "wb") as out:
        while True:
            try:
                data = response.read(CHUNK_BYTES)
            except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
                data = error.partial if isinstance(error, http.client.IncompleteRead) else b""
            if not data:
                break
            out.write(data)
            received += len(data)
            if time.monotonic() - last_log_time > LOG_INTERVAL_S:
                last_log_time = time.monotonic()
                log.info("%s: %.2f of %.2f GB", part.stem, received / 1e9, total / 1e9)
    if received < total:
        return f"the connection ended after {received} of {total} bytes"
    return None


def _count_boxes(file: Path) -> int:
    """Count the boxes of a COCO file without building its 3 GB of Python objects."""
    count, rest = 0, b""
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            count += (rest + chunk).count(b'"bbox"')
            rest = chunk[-5:]  # shorter than the searched text, so nothing is counted twice
    return count
