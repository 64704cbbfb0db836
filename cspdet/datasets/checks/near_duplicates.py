"""Pictures that show the same thing: copies recompressed, resized, brightened or mirrored; neighboring frames.

Such twins across train and val make AP better than it is; within a split they count one scene twice. Files of equal
bytes are the doctor's; this finds what looks the same:

1. a difference hash of 128 bits a picture: is a cell of an 8x8 grid brighter than its neighbor, across and down;
2. pairs whose hashes differ in at most MAX_DISTANCE bits are candidates. Cut into MAX_DISTANCE + 1 bands, two such
   hashes agree in at least one whole band, so only pictures that share a band are compared;
3. of these, the pairs whose fine structure correlates: hashes alone take any two evenly lit surfaces for twins.

Of n pictures with balanced bands this compares about n^2 / 80 pairs, and never more than MAX_COMPARISONS: where more
pictures share a band, each is compared only with the next few in the order of the hashes, and the report says that it
may be incomplete. Memory grows with n. The hash of a nearly even picture is noise, so that its twins may be missed, and
a crop that moves what is seen by more than some hundredths of the picture is no twin.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from cspdet.datasets.formats.coco import CocoDataset
from cspdet.datasets.image_io import read_image, read_image_header
from cspdet.errors import DataError
from cspdet.io.progress import progress

MAX_DISTANCE = 12  # of 128 bits
MIN_SIMILARITY = 0.75  # correlation of the fine structure
MIN_CONTRAST = 1.0  # grey levels: the deviation of the fine structure below which there is nothing to compare
THUMBNAIL = 32  # pixels a side of the fine structure; also half the least side that reduced decoding may leave
BLUR_SIZE = 5  # fine structure is what a pixel of the thumbnail has more than the mean of 5x5 around it
MAX_COMPARISONS = 800_000_000  # of hashes, some twenty seconds
MIN_NEIGHBORS = 16  # that each picture is compared with in each band, whatever there are
MAX_CANDIDATES = 500_000  # more are cut to the nearest
BITS, BANDS = 128, MAX_DISTANCE + 1
# Of every 16 bits; numpy counts bits itself from 2.0 on.
BIT_COUNTS = (
    None if hasattr(np, "bitwise_count") else np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)
)
REDUCED_READ_FLAGS = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: cv2.IMREAD_GRAYSCALE,
}


class ComparedImage(NamedTuple):
    """A picture of a split: its row in the CocoSet, and its file."""

    split: str
    image_index: int
    path: Path


class DuplicatePair(NamedTuple):
    """Two pictures that look the same."""

    first: ComparedImage
    second: ComparedImage
    distance: int  # bits of the hashes that differ, 0 to MAX_DISTANCE
    similarity: float  # correlation of the fine structure, MIN_LIKENESS to 1
    mirrored: bool  # the second is the first with left and right exchanged

    @property
    def is_cross_split(self) -> bool:
        """Whether they are in different splits."""
        return self.first.split != self.second.split

    def to_json(self) -> dict[str, Any]:
        images = [{"split": one.split, "path": str(one.path)} for one in (self.first, self.second)]
        return {
            "images": images,
            "distance": self.distance,
            "similarity": round(self.similarity, 4),
            "mirrored": self.mirrored,
        }


@dataclass(frozen=True)
class DuplicateReport:
    """The pairs that look most alike, best first, and how many there are."""

    pairs: tuple[DuplicatePair, ...]
    total_pairs: int  # pairs in all, of which `pairs` may be the first few
    cross_split_pairs: int  # of these, pairs of two splits
    images: int  # looked at
    low_contrast: int  # left out, because they have too little contrast to compare
    unreadable: int  # left out
    complete: bool  # whether every pair of close hashes was looked at

    def to_json(self) -> dict[str, Any]:
        counts = {name: value for name, value in vars(self).items() if name != "pairs"}
        return {**counts, "pairs": [pair.to_json() for pair in self.pairs]}


class Fingerprints(NamedTuple):
    """What is kept of N pictures: about 2 KB each."""

    hashes: np.ndarray  # (N, 128) bool
    mirrored: np.ndarray  # (N, 128) bool, of the mirrored pictures
    detail: np.ndarray  # (N, THUMBNAIL, THUMBNAIL) float16, fine structure with mean 0 and norm THUMBNAIL
    usable: np.ndarray  # (N,) bool
    unreadable: np.ndarray  # (N,) bool


def find_near_duplicates(sets: Mapping[str, CocoDataset], *, limit: int = 1000) -> DuplicateReport:
    """Twins within and across the splits, each picture compared as it is and mirrored; at most `limit` pairs.

    Unreadable and even pictures are left out and counted. A file that two splits list is no twin of itself.
    """
    images = [ComparedImage(name, i, coco.path(i)) for name, coco in sets.items() for i in range(len(coco))]
    fingerprints = compute_fingerprints([image.path for image in images])
    first, second, distance, mirrored, complete = _candidate_pairs(fingerprints)
    similarity = _pair_similarities(fingerprints.detail, first, second, mirrored)
    other_file = np.array([images[i].path != images[j].path for i, j in zip(first, second, strict=True)], dtype=bool)
    kept = np.flatnonzero((similarity >= MIN_SIMILARITY) & other_file)
    kept = kept[np.lexsort((second[kept], first[kept], -similarity[kept], distance[kept]))]
    _, unique_rows = np.unique(np.stack((first[kept], second[kept])), axis=1, return_index=True)  # symmetric: not twice
    kept = kept[np.sort(unique_rows)]
    split = np.repeat(np.arange(len(sets)), [len(coco) for coco in sets.values()])
    return DuplicateReport(
        pairs=tuple(
            DuplicatePair(
                images[first[k]], images[second[k]], int(distance[k]), float(similarity[k]), bool(mirrored[k])
            )
            for k in kept[:limit]
        ),
        total_pairs=len(kept),
        cross_split_pairs=int((split[first[kept]] != split[second[kept]]).sum()),
        images=len(images),
        low_contrast=int((~fingerprints.usable & ~fingerprints.unreadable).sum()),
        unreadable=int(fingerprints.unreadable.sum()),
        complete=complete,
    )


def compute_fingerprints(paths: list[Path]) -> Fingerprints:
    """Read every picture, small, in threads."""
    count = len(paths)
    hashes, mirrored = np.zeros((count, BITS), bool), np.zeros((count, BITS), bool)
    detail = np.zeros((count, THUMBNAIL, THUMBNAIL), np.float16)
    usable, unreadable = np.zeros(count, bool), np.zeros(count, bool)

    def take(index: int) -> None:
        try:
            grey = read_small_grey(paths[index])
        except DataError:
            unreadable[index] = True
            return
        detail[index], contrast = _fine_structure(grey)
        usable[index] = contrast >= MIN_CONTRAST
        hashes[index], mirrored[index] = difference_hash(grey), difference_hash(grey[:, ::-1])

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as threads:
        for _ in progress(threads.map(take, range(count)), "comparing pictures", "picture", count):
            pass
    return Fingerprints(hashes, mirrored, detail, usable, unreadable)


def read_small_grey(path: Path) -> np.ndarray:
    """(h, w) float32 grey levels of an upright picture, decoded at an eighth of its size or as much as still does.

    Raises:
        DataError: the file is no whole picture.
    """
    side = min(read_image_header(path).stored_hw)
    factor = next((factor for factor in (8, 4, 2) if side >= 2 * THUMBNAIL * factor), 1)
    grey = cv2.imread(str(path), REDUCED_READ_FLAGS[factor])
    if grey is None:  # a format that only Pillow knows
        grey = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)
    return grey.astype(np.float32)


def difference_hash(grey: np.ndarray) -> np.ndarray:
    """(h, w) float32 to (128,) bool: which cell of 8x9 is brighter than the one to its left, of 9x8 than above."""
    across = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    down = cv2.resize(grey, (8, 9), interpolation=cv2.INTER_AREA)
    return np.concatenate(((across[:, 1:] > across[:, :-1]).ravel(), (down[1:] > down[:-1]).ravel()))


def _fine_structure(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """(h, w) to (THUMBNAIL, THUMBNAIL) of mean 0 and norm THUMBNAIL, and its deviation in grey levels before that."""
    side, margin = THUMBNAIL + BLUR_SIZE - 1, BLUR_SIZE // 2
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    detail = small - cv2.blur(small, (BLUR_SIZE, BLUR_SIZE))
    detail = detail[margin:-margin, margin:-margin]  # what has all of its surroundings: a slope leaves nothing there
    detail = detail - detail.mean()
    deviation = float(detail.std())
    return detail / max(deviation, 1e-6), deviation


# --- candidates ----------------------------------------------------------------------------------


def _candidate_pairs(fingerprints: Fingerprints) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]:
    """first < second (P,), distance (P,) and mirrored (P,) of pairs of close hashes, and whether these are all."""
    (rows,) = np.nonzero(fingerprints.usable)
    hashes = np.concatenate((fingerprints.hashes[rows], fingerprints.mirrored[rows]))
    words = np.packbits(hashes, axis=1).view(np.uint64)  # (2n, 2)
    candidates, complete = np.zeros((0, 2), np.int64), True  # (key of the pair, distance)
    count = len(rows)
    for pairs, whole in _close_pairs(hashes, words, count):
        complete &= whole
        i, j, distance = pairs.T
        image_i, image_j = i % max(1, count), j % max(1, count)
        low, high = np.minimum(image_i, image_j), np.maximum(image_i, image_j)
        key = 2 * (low * count + high) + ((i < count) != (j < count))
        candidates = np.concatenate((candidates, np.stack((key, distance), axis=1)[low != high]))
        if len(candidates) > 2 * MAX_CANDIDATES:
            candidates, cut = _deduplicate_and_limit(candidates)
            complete &= not cut
    candidates, cut = _deduplicate_and_limit(candidates)
    pair, mirrored = candidates[:, 0] // 2, candidates[:, 0] % 2 == 1
    first, second = rows[pair // max(1, count)], rows[pair % max(1, count)]
    return first, second, candidates[:, 1], mirrored, complete and not cut


def _deduplicate_and_limit(candidates: np.ndarray) -> tuple[np.ndarray, bool]:
    """(P, 2) keys and distances: each key once, at most MAX_CANDIDATES; and whether some had to go."""
    candidates = candidates[np.lexsort((candidates[:, 1], candidates[:, 0]))]
    first = np.ones(len(candidates), bool)
    first[1:] = candidates[1:, 0] != candidates[:-1, 0]
    candidates = candidates[first]
    if len(candidates) <= MAX_CANDIDATES:
        return candidates, False
    return candidates[np.argsort(candidates[:, 1], kind="stable")[:MAX_CANDIDATES]], True


def _close_pairs(hashes: np.ndarray, words: np.ndarray, num_originals: int) -> Iterator[tuple[np.ndarray, bool]]:
    """(P, 3) rows i, j and distance of close hashes that share a band, a part at a time; not of two mirrored ones.

    With each part: False where a band is shared by more pictures than are compared.
    """
    # Neighboring bits tend to be equal in all pictures; spread over the bands, they leave each band choosy.
    bands = np.array_split(np.random.default_rng(0).permutation(BITS), BANDS)
    neighbors = max(MIN_NEIGHBORS, MAX_COMPARISONS // (BANDS * max(1, len(hashes))))
    for band in bands:
        value = hashes[:, band] @ (1 << np.arange(len(band)))
        order = np.lexsort((words[:, 1], words[:, 0], value))
        value, words_in_order, mirrored = value[order], words[order], order >= num_originals
        for step in range(1, min(neighbors, len(order) - 1) + 1):
            same = value[step:] == value[:-step]
            if not same.any():
                break
            distance = count_bits(words_in_order[step:] ^ words_in_order[:-step])
            (at,) = np.nonzero(same & (distance <= MAX_DISTANCE) & ~(mirrored[step:] & mirrored[:-step]))
            yield np.stack((order[at], order[at + step], distance[at]), axis=1), True
        crowded = bool((value[neighbors + 1 :] == value[: -neighbors - 1]).any())
        yield np.zeros((0, 3), np.int64), not crowded


def count_bits(words: np.ndarray) -> np.ndarray:
    """(P, 2) uint64 to (P,) int64: how many of the 128 bits are set."""
    counts = BIT_COUNTS[words.view(np.uint16)] if BIT_COUNTS is not None else np.bitwise_count(words)
    return counts.sum(axis=1, dtype=np.int64)


def _pair_similarities(detail: np.ndarray, first: np.ndarray, second: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """(P,) correlations of the fine structure of pairs of pictures."""
    result = np.zeros(len(first), np.float32)
    for start in range(0, len(first), 4096):
        chunk = slice(start, start + 4096)
        ours, theirs = detail[first[chunk]].astype(np.float32), detail[second[chunk]].astype(np.float32)
        flip = mirrored[chunk]
        theirs[flip] = theirs[flip][:, :, ::-1]
        result[chunk] = (ours * theirs).mean(axis=(1, 2))
    return result.clip(max=1.0)
