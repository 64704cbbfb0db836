"""Where training samples come from: decoded, shrunk to the input, kept if wanted, others in place of broken ones."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
import torch

from cspdet.datasets.disk_cache import SUFFIX, DiskCache, fingerprint, open_or_build_cache
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.datasets.image_io import read_image
from cspdet.errors import ConfigError, DataError, truncate_list
from cspdet.letterbox import Letterbox, resize_image
from cspdet.structures import Sample

log = logging.getLogger("cspdet")

Resize = Literal["letterbox", "stretch"]
Cache = Literal["auto", "none", "ram", "disk"]
OnBadImage = Literal["error", "skip"]
SampleT = TypeVar("SampleT")  # a sample
MAX_FREE_MEMORY_FRACTION = 0.9  # share of the free memory that a cache may take
AUTO_MAX_FREE_MEMORY_FRACTION = 0.3  # the share that it takes without being asked to


def read_annotated_image(coco: CocoDataset, index: int) -> np.ndarray:
    """Picture `index` as it is in its file: (H, W, 3) uint8 RGB.

    Raises:
        DataError: unreadable, or of another size than the annotations say, which would put every box off.
    """
    image = read_image(coco.path(index))
    (found_h, found_w), (height, width) = image.shape[:2], coco.size_hw[index].tolist()
    if (found_h, found_w) != (height, width):
        raise DataError(
            f"{coco.path(index)}: the file is {found_w}x{found_h} (width x height), "
            f"the annotations say {width}x{height}"
        )
    return image


class CachedDataset(Generic[SampleT]):
    """Sample `index` of `count`; a subclass says how one is made, and calls `fill` once it can make some.

    bad  "error" raises DataError at an unreadable picture; "skip" gives the next readable one and notes
         it in `skipped` (number of the picture to the reason)
    """

    def __init__(self, count: int, on_bad_image: OnBadImage):
        self.count, self.on_bad_image = count, on_bad_image
        self.skipped: dict[int, str] = {}
        self._reported: set[int] = set()
        self._cache: RamCache | DiskCache | None = None

    def build_sample(self, index: int, image: np.ndarray) -> SampleT:
        """The sample of a picture as it is stored, which must not be written to."""
        raise NotImplementedError

    def load(self, index: int) -> np.ndarray:
        """The picture as it is stored, from its file: (h, w, 3) uint8 RGB.

        Raises:
            DataError: it cannot be read.
        """
        raise NotImplementedError

    def path(self, index: int) -> Path:
        """The picture's file."""
        raise NotImplementedError

    def cache_key(self) -> bytes:
        """All that `load` depends on, but for the files."""
        raise NotImplementedError

    def stored_sizes(self) -> list[tuple[int, int]]:
        """Height and width of every picture as it is stored."""
        raise NotImplementedError

    def estimate_cache_bytes(self) -> int:
        """Bytes that a cache would take, about."""
        return sum(3 * height * width for height, width in self.stored_sizes())

    def build_cache(self, cache: Cache, shared: bool, cache_folder: Path | None = None, num_processes: int = 1) -> None:
        """Decode everything here and now, in threads.

        "ram"   into memory, and with "auto" where it fits well into the free part of it; loader processes started
                later share it, and with `shared` those that are not forked, too. Each of `processes` training
                processes may take its part of the memory.
        "disk"  into a file in `cache_folder`, which all processes and runs share; one that is there is used

        Raises:
            ConfigError: no room, or no folder.
            DataError: the unreadable pictures.
        """
        if cache == "disk":
            self._cache = self._open_disk_cache(cache_folder)
        elif cache == "ram" or (cache == "auto" and self._fits_in_free_memory(num_processes)):
            self._cache = self._build_ram_cache(shared, num_processes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> SampleT:
        while True:
            row = self.replacement_index(index)
            try:
                return self.build_sample(row, self.load(row) if self._cache is None else self._cache[row])
            except DataError as error:
                if self.on_bad_image == "error":
                    raise
                self.skipped[row] = str(error)

    def replacement_index(self, index: int) -> int:
        """The picture that is given for `index`: itself, or the next that is not known to be unreadable."""
        for row in (*range(index, len(self)), *range(index)) if index in self.skipped else (index,):
            if row not in self.skipped:
                return row
        raise DataError(*truncate_list(["no picture is readable", *self.skipped.values()]))

    def pop_new_errors(self) -> dict[int, str]:
        """Pictures found unreadable since the last call."""
        new_errors = {index: why for index, why in self.skipped.items() if index not in self._reported}
        self._reported |= set(new_errors)
        return new_errors

    def _open_disk_cache(self, folder: Path | None) -> DiskCache:
        if folder is None:
            raise ConfigError("train.cache_folder: train.cache=disk needs a folder for decoded pictures, found null")
        path = folder / f"cspdet-{fingerprint(self.cache_key(), self.path, len(self))}{SUFFIX}"
        cache = open_or_build_cache(
            path, len(self), self.estimate_cache_bytes, self.load, skip_bad_images=self.on_bad_image == "skip"
        )
        self.skipped.update(cache.problems)
        return cache

    def _fits_in_free_memory(self, num_processes: int) -> bool:
        """Whether all pictures at their stored sizes take a small part of the free memory."""
        required_bytes, free = self.estimate_cache_bytes(), available_memory()
        fits = free is not None and num_processes * required_bytes <= AUTO_MAX_FREE_MEMORY_FRACTION * free
        if not fits:
            log.info("pictures are decoded anew in each epoch: a cache in RAM would take %.0f MB", required_bytes / 1e6)
        return fits

    def _build_ram_cache(self, shared: bool, num_processes: int) -> RamCache:
        """Decode every picture into a new cache; all unreadable ones are raised together, or noted."""
        cache = RamCache(self.stored_sizes(), shared, num_processes)

        def store(index: int) -> str | None:
            try:
                cache[index] = self.load(index)
            except DataError as error:
                return str(error)
            return None

        threads = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        try:
            found = {i: problem for i, problem in enumerate(threads.map(store, range(len(self)))) if problem}
        finally:
            threads.shutdown(cancel_futures=True)
        if found and self.on_bad_image == "error":
            raise DataError(*truncate_list(list(found.values())))
        self.skipped.update(found)
        log.info("cached %d pictures in RAM: %.0f MB", len(self) - len(found), cache.nbytes / 1e6)
        return cache


class DetectionDataset(CachedDataset[Sample]):
    """Picture `index` of a CocoSet with its boxes, no larger than it will be in the input `size_hw` (height, width in
    pixels); smaller ones stay as they are.
    """

    def __init__(
        self,
        coco: CocoDataset,
        size_hw: tuple[int, int],
        resize: Resize = "letterbox",
        cache: Cache = "none",
        on_bad_image: OnBadImage = "error",
        shared: bool = False,
        *,
        cache_folder: Path | None = None,
        num_processes: int = 1,
    ):
        if len(coco) == 0:
            raise DataError(f"{coco.files.annotations}: expected pictures to train on, found none")
        super().__init__(len(coco), on_bad_image)
        self.coco, self.size_hw, self.resize = coco, size_hw, resize
        self.build_cache(cache, shared, cache_folder, num_processes)

    def build_sample(self, index: int, image: np.ndarray) -> Sample:
        """The picture with its boxes in its stored pixels."""
        box_xyxy, class_id, is_crowd = self.coco.boxes(index)
        height, width = self.coco.size_hw[index].tolist()
        ratio_x, ratio_y = image.shape[1] / width, image.shape[0] / height
        ratios = np.array((ratio_x, ratio_y, ratio_x, ratio_y), np.float32)
        return Sample(image, box_xyxy * ratios, class_id, is_crowd, int(self.coco.image_id[index]))

    def load(self, index: int) -> np.ndarray:
        """Decoded, upright, and shrunk to its stored size."""
        bilinear = self.resize == "stretch"  # as the pictures that are evaluated
        return resize_image(read_annotated_image(self.coco, index), self._stored_hw(index), bilinear=bilinear)

    def path(self, index: int) -> Path:
        """The picture's file."""
        return self.coco.path(index)

    def cache_key(self) -> bytes:
        """The input, and the sizes that the annotations give."""
        return f"{self.resize} {self.size_hw} ".encode() + self.coco.size_hw.astype("<i4").tobytes()

    def stored_sizes(self) -> list[tuple[int, int]]:
        """Of every picture, by the annotations."""
        return [self._stored_hw(index) for index in range(len(self))]

    def _stored_hw(self, index: int) -> tuple[int, int]:
        """Height and width in the letterbox, never enlarged: the augmentation does that in its one step."""
        height, width = self.coco.size_hw[index].tolist()
        box = Letterbox.fit((height, width), self.size_hw, self.resize)
        return min(height, round(height * box.scale_y)), min(width, round(width * box.scale_x))


class RamCache:
    """Pictures of known sizes, end to end in one piece of memory that no loader process needs to copy.

    Raises:
        ConfigError: they need more than the part that each of `processes` training processes has of the free memory.
    """

    def __init__(self, sizes_hw: list[tuple[int, int]], shared: bool, num_processes: int = 1):
        self._size_hw = np.array(sizes_hw, np.int64).reshape(-1, 2)
        self._start = np.concatenate(([0], np.cumsum(3 * self._size_hw.prod(axis=1))))
        self.nbytes = int(self._start[-1])
        free = available_memory()
        if free is not None and num_processes * self.nbytes > MAX_FREE_MEMORY_FRACTION * free:
            times = f" in each of {num_processes} processes" if num_processes > 1 else ""
            raise ConfigError(
                f"train.cache: {len(sizes_hw)} pictures of this size need {self.nbytes / 1e6:.0f} MB of RAM{times}, "
                f"but only {MAX_FREE_MEMORY_FRACTION * free / 1e6:.0f} MB ({MAX_FREE_MEMORY_FRACTION:.0%} of what is free) may be taken; "
                "use train.cache=none, or train.cache=disk with a train.cache_folder, which processes share"
            )
        self._pixels = torch.empty(self.nbytes, dtype=torch.uint8)
        if shared:
            self._pixels.share_memory_()

    def __getitem__(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8, the cache's own memory: not to be written to."""
        first, last = self._start[index : index + 2].tolist()
        return self._pixels.numpy()[first:last].reshape(*self._size_hw[index].tolist(), 3)

    def __setitem__(self, index: int, image: np.ndarray) -> None:
        self[index][...] = image


def available_memory() -> int | None:
    """Bytes that may still be taken: what the system has available, or less by the control group's limit."""
    limits = []
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
        group = Path("/sys/fs/cgroup")
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError, KeyError) as error:  # not Linux, or a group without a limit ("max")
        log.debug("no more is known about free memory: %s", error)
    return max(0, min(limits)) if limits else None
