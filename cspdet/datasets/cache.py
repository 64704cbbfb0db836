"""Caches of decoded images. A cache has the same interface as the images that it wraps: index -> image.

DetectionImages, ClassificationImages   decode the image file on every access
RamCache                                decoded images in memory that loader processes share
DiskCache                               decoded images in a memory-mapped file that runs share
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from cspdet.datasets.config import LoaderConfig
from cspdet.datasets.disk_cache import SUFFIX, DiskCache, fingerprint, open_or_build_cache
from cspdet.datasets.worker_count import free_shared_memory
from cspdet.errors import ConfigError, DataError, truncate_list

log = logging.getLogger("cspdet")

MAX_FREE_MEMORY_FRACTION = 0.9  # maximum fraction of the free memory for cache: ram
AUTO_MAX_FREE_MEMORY_FRACTION = 0.3  # maximum fraction of the free memory for cache: auto


class Images(Protocol):
    """Images by index: the common interface of image files and caches."""

    @property
    def problems(self) -> dict[int, str]:
        """Unreadable images found while the cache was built: index -> reason."""

    def __getitem__(self, index: int, /) -> np.ndarray:
        """Return image `index`, (h, w, 3) uint8 RGB, read-only; raise DataError if it is unreadable."""


class ImageFiles(Images, Protocol):
    """Images in files, with the data that a cache needs: paths, key and sizes."""

    def __len__(self) -> int: ...
    def path(self, index: int, /) -> Path:
        """Return the path of an image."""

    def cache_key(self) -> bytes:
        """Return the settings that determine the decoded pixels, as bytes, without the contents of the files."""

    def sizes_hw(self) -> list[tuple[int, int]]:
        """Return the height and width of every image that `__getitem__` returns."""

    def estimate_cache_bytes(self) -> int:
        """Return the approximate size in bytes of all decoded images."""


def build_cache(files: ImageFiles, config: LoaderConfig, *, shared: bool = False, num_processes: int = 1) -> Images:
    """Decode all images in threads into the cache that `config.cache` selects.

    Args:
        files: The images to decode.
        config: Only the keys `cache`, `cache_folder` and `on_bad_image` are read.
        shared: Put a RAM cache into shared memory, for loader processes that are not forked.
        num_processes: Number of training processes on this machine; each has its own RAM cache.

    Returns:
        The cache, or `files` if nothing is cached.

    Raises:
        ConfigError: There is not enough memory or disk space, or `cache` is "disk" and no cache folder is set.
        DataError: Some images are unreadable and `on_bad_image` is `error`.
    """
    skip_bad_images = config.on_bad_image == "skip"
    if config.cache == "disk":
        return _open_disk_cache(files, config.cache_folder, skip_bad_images=skip_bad_images)
    if config.cache == "ram" or (config.cache == "auto" and _fits_in_free_memory(files, shared, num_processes)):
        return _build_ram_cache(files, shared, num_processes, skip_bad_images=skip_bad_images)
    return files


def _open_disk_cache(files: ImageFiles, folder: Path | None, *, skip_bad_images: bool) -> DiskCache:
    if folder is None:
        raise ConfigError("train.cache_folder: train.cache=disk needs a folder for decoded images, found null")
    path = folder / f"cspdet-{fingerprint(files.cache_key(), files.path, len(files))}{SUFFIX}"
    return open_or_build_cache(
        path, len(files), files.estimate_cache_bytes, files.__getitem__, skip_bad_images=skip_bad_images
    )


def _fits_in_free_memory(files: ImageFiles, shared: bool, num_processes: int) -> bool:
    """Return whether all images need at most AUTO_MAX_FREE_MEMORY_FRACTION of the free memory.

    The result is False if the free memory is unknown.
    """
    required_bytes, free = files.estimate_cache_bytes(), _free_memory(shared)
    fits = free is not None and num_processes * required_bytes <= AUTO_MAX_FREE_MEMORY_FRACTION * free
    if not fits:
        log.info("images are decoded again in each epoch: a cache in RAM would take %.0f MB", required_bytes / 1e6)
    return fits


def _build_ram_cache(files: ImageFiles, shared: bool, num_processes: int, *, skip_bad_images: bool) -> RamCache:
    cache = RamCache(files.sizes_hw(), shared, num_processes)

    def store(index: int) -> str | None:
        try:
            cache[index] = files[index]
        except DataError as error:
            return str(error)
        return None

    threads = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        results = threads.map(store, range(len(files)))
        cache.problems.update({index: problem for index, problem in enumerate(results) if problem})
    finally:
        threads.shutdown(cancel_futures=True)
    if cache.problems and not skip_bad_images:
        raise DataError(*truncate_list(list(cache.problems.values())))
    log.info("cached %d images in RAM: %.0f MB", len(files) - len(cache.problems), cache.nbytes / 1e6)
    return cache


class RamCache:
    """Cache of decoded images in one block of memory that all loader processes of a training process share.

    Args:
        sizes_hw: Height and width of each image.
        shared: Use shared memory, for loader processes that are not forked.
        num_processes: Number of training processes on this machine; each has its own cache.

    Raises:
        ConfigError: There is not enough free memory.
    """

    def __init__(self, sizes_hw: list[tuple[int, int]], shared: bool, num_processes: int = 1):
        self.problems: dict[int, str] = {}
        self._size_hw = np.array(sizes_hw, np.int64).reshape(-1, 2)
        self._start = np.concatenate(([0], np.cumsum(3 * self._size_hw.prod(axis=1))))
        self.nbytes = int(self._start[-1])
        free = _free_memory(shared)
        if free is not None and num_processes * self.nbytes > MAX_FREE_MEMORY_FRACTION * free:
            times = f" in each of {num_processes} processes" if num_processes > 1 else ""
            raise ConfigError(
                f"train.cache: {len(sizes_hw)} images of this size need {self.nbytes / 1e6:.0f} MB of RAM{times}, "
                f"but the limit is {MAX_FREE_MEMORY_FRACTION * free / 1e6:.0f} MB ({MAX_FREE_MEMORY_FRACTION:.0%} of "
                "free memory); use train.cache=none, or train.cache=disk and a train.cache_folder that processes share"
            )
        self._pixels = torch.empty(self.nbytes, dtype=torch.uint8)
        if shared:
            self._pixels.share_memory_()

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image `index`, (h, w, 3) uint8, as a view of the cache that must not be modified."""
        first, last = self._start[index : index + 2].tolist()
        return self._pixels.numpy()[first:last].reshape(*self._size_hw[index].tolist(), 3)

    def __setitem__(self, index: int, image: np.ndarray) -> None:
        self[index][...] = image


def _free_memory(shared: bool) -> int | None:
    """Return the free memory in bytes, or None if it is unknown.

    With `shared`, the result is at most the free shared memory.
    """
    limits = (available_memory(), free_shared_memory() if shared else None)
    return min((limit for limit in limits if limit is not None), default=None)


def available_memory() -> int | None:
    """Return the free memory in bytes, within the limit of the control group (cgroup); None if it is unknown."""
    limits = []
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        limits.append(limit - used)
    except (OSError, ValueError, KeyError) as error:  # not Linux, or a group without a limit ("max")
        log.debug("free memory of the system or of the control group is unknown: %s", error)
    return max(0, min(limits)) if limits else None
