"""Search for near-duplicates: recompressed, resized, brightened or mirrored copies, and neighboring video frames.

Near-duplicates in train and val inflate AP; within a split, near-duplicates give one scene the weight of several.
`validate` finds files with equal bytes; this module finds images that look the same:

1. a difference hash of 128 bits per image: for an 8x8 grid, whether each cell is brighter than its left and its upper
   neighbor;
2. pairs whose hashes differ in at most MAX_DISTANCE bits are candidates. To find the candidates, the bits are divided
   into MAX_DISTANCE + 1 bands. Two such hashes are equal in at least one band, so only hashes that are equal in a band
   are compared;
3. candidates are reported if their high spatial frequencies correlate, because uniform surfaces also have similar
   hashes.

For n images, about n^2 / 80 pairs are compared if the bits of each band vary between images. The limit is
MAX_COMPARISONS. Above the limit, each hash is compared only with the next hashes in sorted order, and the report is
marked as incomplete. The memory is proportional to n. Limitations: the hash of an image with low contrast is noise, so
its near-duplicates may be missed; crops that shift the content by more than a few percent of the image are not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cspdet.datasets.checks.fingerprints import NUM_BITS, Fingerprints, compute_fingerprints
from cspdet.datasets.formats.coco import CocoDataset

MAX_DISTANCE = 12  # Hamming distance of the 128-bit hashes
MIN_SIMILARITY = 0.75  # correlation of the fine structure
MAX_COMPARISONS = 800_000_000  # comparisons of hashes; about 20 seconds
MIN_NEIGHBORS = 16  # minimum number of images that each image is compared with in each band
MAX_CANDIDATES = 500_000  # if there are more, those with the smallest distances are kept
NUM_BANDS = MAX_DISTANCE + 1
# Number of bits of every 16-bit integer, for numpy before 2.0, which has no bitwise_count.
BIT_COUNTS = (
    None if hasattr(np, "bitwise_count") else np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)
)


class ComparedImage(NamedTuple):
    """An image of a split: its index in the `CocoDataset`, and its file."""

    split: str
    image_index: int
    path: Path


class DuplicatePair(NamedTuple):
    """Two images that look the same."""

    first: ComparedImage
    second: ComparedImage
    distance: int  # bits of the hashes that differ, 0 to MAX_DISTANCE
    similarity: float  # correlation of the fine structure, MIN_SIMILARITY to 1
    mirrored: bool  # whether the second is the first mirrored left to right

    @property
    def is_cross_split(self) -> bool:
        """True if the two images are in different splits."""
        return self.first.split != self.second.split

    def to_json(self) -> dict[str, Any]:
        """Return the pair as JSON-compatible values."""
        images = [{"split": image.split, "path": str(image.path)} for image in (self.first, self.second)]
        return {
            "images": images,
            "distance": self.distance,
            "similarity": round(self.similarity, 4),
            "mirrored": self.mirrored,
        }


@dataclass(frozen=True)
class DuplicateReport:
    """Pairs of near-duplicates, sorted by distance and then by descending similarity, and counts."""

    pairs: tuple[DuplicatePair, ...]
    total_pairs: int  # number of pairs found; `pairs` may contain only the first of them
    cross_split_pairs: int  # number of pairs across two splits
    images: int  # number of images in all splits, including skipped ones
    low_contrast: int  # images skipped because their contrast is too low
    unreadable: int  # images skipped because they are unreadable
    complete: bool  # whether no limit was reached, so that all pairs of similar hashes were found

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        counts = {name: value for name, value in vars(self).items() if name != "pairs"}
        return {**counts, "pairs": [pair.to_json() for pair in self.pairs]}


def find_near_duplicates(sets: Mapping[str, CocoDataset], *, limit: int = 1000) -> DuplicateReport:
    """Find near-duplicates within splits and between splits, including mirror images.

    Unreadable and low-contrast images are skipped and counted. A file that is listed twice is not reported as its own
    duplicate.

    Args:
        sets: The splits by name.
        limit: Maximum number of pairs in the report.
    """
    images = [ComparedImage(name, i, coco.path(i)) for name, coco in sets.items() for i in range(len(coco))]
    fingerprints = compute_fingerprints([image.path for image in images])
    first, second, distance, mirrored, complete = _candidate_pairs(fingerprints)
    similarity = _pair_similarities(fingerprints.detail, first, second, mirrored)
    other_file = np.array([images[i].path != images[j].path for i, j in zip(first, second, strict=True)], dtype=bool)
    kept = np.flatnonzero((similarity >= MIN_SIMILARITY) & other_file)
    kept = kept[np.lexsort((second[kept], first[kept], -similarity[kept], distance[kept]))]
    _, unique_rows = np.unique(
        np.stack((first[kept], second[kept])), axis=1, return_index=True
    )  # a symmetric image also matches the mirrored one
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


def _candidate_pairs(fingerprints: Fingerprints) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]:
    """Find the P pairs of images with similar hashes.

    Returns:
        A tuple (first, second, distance, mirrored, complete). `first` and `second` (P,) are image indices, with first <
        second. `distance` (P,) is the number of differing bits. `mirrored` (P,) is True if one image was mirrored for
        the comparison. `complete` is False if a limit may have dropped pairs.
    """
    (rows,) = np.nonzero(fingerprints.usable)
    hashes = np.concatenate((fingerprints.hashes[rows], fingerprints.mirrored[rows]))
    words = np.packbits(hashes, axis=1).view(np.uint64)  # (2n, 2)
    candidates, complete = np.zeros((0, 2), np.int64), True  # (key of the pair, distance)
    count = len(rows)
    for pairs, all_compared in _close_pairs(hashes, words, count):
        complete &= all_compared
        i, j, distance = pairs.T
        image_i, image_j = i % max(1, count), j % max(1, count)
        low, high = np.minimum(image_i, image_j), np.maximum(image_i, image_j)
        key = 2 * (low * count + high) + ((i < count) != (j < count))
        candidates = np.concatenate((candidates, np.stack((key, distance), axis=1)[low != high]))
        if len(candidates) > 2 * MAX_CANDIDATES:
            candidates, truncated = _deduplicate_and_limit(candidates)
            complete &= not truncated
    candidates, truncated = _deduplicate_and_limit(candidates)
    pair, mirrored = candidates[:, 0] // 2, candidates[:, 0] % 2 == 1
    first, second = rows[pair // max(1, count)], rows[pair % max(1, count)]
    return first, second, candidates[:, 1], mirrored, complete and not truncated


def _deduplicate_and_limit(candidates: np.ndarray) -> tuple[np.ndarray, bool]:
    """Keep the row with the smallest distance for each key, then the MAX_CANDIDATES closest rows.

    Args:
        candidates: (P, 2) key and distance; the key encodes two images and whether one of them is mirrored.

    Returns:
        The kept rows, and whether rows were dropped because of the limit.
    """
    candidates = candidates[np.lexsort((candidates[:, 1], candidates[:, 0]))]
    first = np.ones(len(candidates), bool)
    first[1:] = candidates[1:, 0] != candidates[:-1, 0]
    candidates = candidates[first]
    if len(candidates) <= MAX_CANDIDATES:
        return candidates, False
    return candidates[np.argsort(candidates[:, 1], kind="stable")[:MAX_CANDIDATES]], True


def _close_pairs(hashes: np.ndarray, words: np.ndarray, num_originals: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Compare hashes that are equal in a band; yield the pairs whose distance is at most MAX_DISTANCE.

    From row `num_originals` on, `hashes` belong to mirrored images. Two hashes of mirrored images are not compared.

    Yields:
        (P, 3) indices i and j into `hashes` and their distance; and whether all pairs of the band were compared.
    """
    # Neighboring bits are often equal in all images; a random permutation makes each band selective.
    bands = np.array_split(np.random.default_rng(0).permutation(NUM_BITS), NUM_BANDS)
    neighbors = max(MIN_NEIGHBORS, MAX_COMPARISONS // (NUM_BANDS * max(1, len(hashes))))
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
    """Count the set bits of each row: (P, 2) uint64 -> (P,) int64."""
    counts = BIT_COUNTS[words.view(np.uint16)] if BIT_COUNTS is not None else np.bitwise_count(words)
    return counts.sum(axis=1, dtype=np.int64)


def _pair_similarities(detail: np.ndarray, first: np.ndarray, second: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Return the (P,) correlation of the fine structure of each pair of images."""
    result = np.zeros(len(first), np.float32)
    for start in range(0, len(first), 4096):
        chunk = slice(start, start + 4096)
        left, right = detail[first[chunk]].astype(np.float32), detail[second[chunk]].astype(np.float32)
        flip = mirrored[chunk]
        right[flip] = right[flip][:, :, ::-1]
        result[chunk] = (left * right).mean(axis=(1, 2))
    return result.clip(max=1.0)
