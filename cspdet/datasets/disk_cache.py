"""Disk cache: decoded images in one memory-mapped file, which processes and runs share through the page cache.

    pixels     all images, one after the other, (h, w, 3) uint8 each
    sizes      (N, 2) int32, height and width; 0x0 for an unreadable image
    problems   JSON object: index of each unreadable image -> reason
    FOOTER     magic, N, and the sizes in bytes of pixels and problems

The file name is a hash of all inputs on which the pixels depend, so an existing file is valid. The file is written
under a temporary name and then renamed, so a killed run does not leave an incomplete cache.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cspdet.errors import ConfigError, DataError, truncate_list
from cspdet.io.atomic import atomic_write
from cspdet.io.lock_file import open_lock_file
from cspdet.io.progress import progress

log = logging.getLogger("cspdet")

FOOTER = struct.Struct("<8sqqq")
MAGIC = b"cspdetP1"
SUFFIX = ".images"
CHUNK = 256  # images decoded at a time, to limit the memory
MAX_FREE_DISK_FRACTION = 0.9  # maximum fraction of the free disk space


class DiskCache:
    """Decoded images in a file written by `open_or_build_cache`.

    Attributes:
        path: The file.
        nbytes: Size of the pixels in bytes.
        problems: Unreadable images: index -> reason.

    Raises:
        ValueError: The file has another format, or is incomplete.
    """

    def __init__(self, path: Path):
        with path.open("rb") as file:
            whole = os.fstat(file.fileno()).st_size
            if whole < FOOTER.size:
                raise ValueError("too short")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, count, self.nbytes, problems_size = FOOTER.unpack(self._map[-FOOTER.size :])
        if magic != MAGIC or whole != self.nbytes + 8 * count + problems_size + FOOTER.size:
            raise ValueError("incomplete, or of another type")
        sizes = np.frombuffer(self._map, "<i4", 2 * count, self.nbytes)
        self.path, self._size_hw = path, sizes.reshape(count, 2).astype(np.int64)
        self._start = np.concatenate(([0], np.cumsum(3 * self._size_hw.prod(axis=1))))
        self._pixels = np.frombuffer(self._map, np.uint8, self.nbytes)
        problems = json.loads(self._map[self.nbytes + 8 * count : -FOOTER.size])
        self.problems = {int(index): str(why) for index, why in problems.items()}

    def __len__(self) -> int:
        return len(self._size_hw)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image `index`, (h, w, 3) uint8, a read-only view of the file."""
        first, last = self._start[index : index + 2].tolist()
        return self._pixels[first:last].reshape(*self._size_hw[index].tolist(), 3)

    def __reduce__(self) -> tuple[type[DiskCache], tuple[Path]]:
        return DiskCache, (self.path,)  # a spawned process maps the file instead of copying the pixels


def fingerprint(cache_key: bytes, path: Callable[[int], Path], count: int) -> str:
    """Return a hash of the names, sizes and modification times of `count` files, and of `cache_key`.

    Args:
        cache_key: Settings that determine the decoded pixels.
        path: Function that returns the path of a file by index.
        count: Number of files.
    """
    digest = blake2b(MAGIC + struct.pack("<qq", count, len(cache_key)) + cache_key, digest_size=16)

    def look(start: int) -> bytes:
        return b"".join(_file_identity(path(index)) for index in range(start, min(start + CHUNK, count)))

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as threads:
        for identities in threads.map(look, range(0, count, CHUNK)):
            digest.update(identities)
    return digest.hexdigest()


def _file_identity(path: Path) -> bytes:
    name = os.fsencode(os.path.abspath(path))
    try:
        file_stat = path.stat()
    except OSError:
        return name + b"\0missing\0"
    return name + f"\0{file_stat.st_size} {file_stat.st_mtime_ns}\0".encode()


def open_or_build_cache(
    path: Path,
    count: int,
    estimate_bytes: Callable[[], int],
    load: Callable[[int], np.ndarray],
    *,
    skip_bad_images: bool,
) -> DiskCache:
    """Open the cache at `path`; build the cache if it is missing or unusable.

    If the file system supports locks, only one of several processes builds the cache.

    Args:
        path: The file.
        count: Number of images.
        estimate_bytes: Function that returns the approximate size of the pixels in bytes.
        load: Function that returns an image by index, (h, w, 3) uint8; raises DataError if it is unreadable.
        skip_bad_images: Record unreadable images in `problems` instead of raising an error.

    Raises:
        ConfigError: There is not enough disk space, or the folder is not writable.
        DataError: Images are unreadable and `skip_bad_images` is not set; the message lists them.
    """
    cache = _try_open(path, count)
    if cache is None:
        with _file_lock(path):
            cache = _try_open(path, count)  # another process may have built it in the meantime
            if cache is None:
                _check_free_space(path, estimate_bytes())
                with atomic_write(path) as tmp_path, tmp_path.open("wb") as file:
                    _write_cache(file, count, load, skip_bad_images=skip_bad_images)
                cache = DiskCache(path)
    if cache.problems and not skip_bad_images:
        raise DataError(*truncate_list(list(cache.problems.values())))
    log.info("%d images are cached in %s: %.0f MB", count - len(cache.problems), path, cache.nbytes / 1e6)
    return cache


def _try_open(path: Path, count: int) -> DiskCache | None:
    try:
        cache = DiskCache(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is unusable and is rebuilt (%s)", path, error)
        return None
    return cache if len(cache) == count else None


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Hold the lock of `path` in the `with` block; delete temporary files of killed runs first.

    The operating system releases the lock if the process dies. The lock also works between machines if the file system
    supports locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open_lock_file(path.with_suffix(".lock"))
    except OSError as error:
        raise ConfigError(
            f"train.cache_folder: {path.parent} cannot be written: {error.strerror}; expected a folder for the "
            "decoded images"
        ) from None
    with lock:
        if _acquire_lock(lock, path):
            for tmp_path in path.parent.glob(f".{path.stem}.*.part{SUFFIX}"):
                tmp_path.unlink(missing_ok=True)  # left by killed runs
        yield


def _acquire_lock(lock: BinaryIO, path: Path) -> bool:
    """Wait for the lock; return False if the file system or the platform does not support locks.

    Without locks, two processes may build the same cache.
    """
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process, which is writing %s", path)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        log.debug("no locks in %s: %s", path.parent, error)
        return False
    return True


def _check_free_space(path: Path, required_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if required_bytes > MAX_FREE_DISK_FRACTION * free:
        raise ConfigError(
            f"train.cache_folder: the decoded images need {required_bytes / 1e6:.0f} MB, but the limit is "
            f"{MAX_FREE_DISK_FRACTION * free / 1e6:.0f} MB ({MAX_FREE_DISK_FRACTION:.0%} of the free space) in "
            f"{path.parent}; use another folder or train.cache=none"
        )


def _write_cache(file: BinaryIO, count: int, load: Callable[[int], np.ndarray], *, skip_bad_images: bool) -> None:
    """Decode images in threads and write the cache file; without `skip_bad_images`, unreadable images are errors."""

    def read(index: int) -> np.ndarray | str:
        try:
            return load(index)
        except DataError as error:
            return str(error)

    sizes, problems = np.zeros((count, 2), "<i4"), {}
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        chunks = (range(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK))
        images = (images for chunk in chunks for images in threads.map(read, chunk))
        for index, image in enumerate(progress(images, "decoding the images to disk", "image", count)):
            if isinstance(image, str):
                problems[index] = image
            else:
                sizes[index] = image.shape[:2]
                file.write(np.ascontiguousarray(image).data)
    if problems and not skip_bad_images:
        raise DataError(*truncate_list(list(problems.values())))
    problems_json = json.dumps(problems).encode()
    pixels = file.tell()
    file.write(sizes.tobytes() + problems_json + FOOTER.pack(MAGIC, count, pixels, len(problems_json)))
