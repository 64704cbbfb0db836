"""Report sections with images of a dataset: samples of each class, and near-duplicates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cspdet.datasets.checks.near_duplicates import DuplicatePair, DuplicateReport
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.reports.components import (
    Block,
    Card,
    Column,
    Gallery,
    LegendEntry,
    Messages,
    Paragraph,
    ReportSection,
    Table,
)
from cspdet.reports.thumbnails import GalleryBox, ThumbnailEmbedder

MAX_PAIRS_DRAWN = 24
MAX_PAIRS_LISTED = 200
MAX_LARGE_SAMPLES = 60  # with more samples, the thumbnails are small
LARGE_THUMBNAIL, SMALL_THUMBNAIL = 400, 260  # longer side in pixels
SAMPLE_LEGEND = (
    LegendEntry("box0", "boxes of the class"),
    LegendEntry("box1", "other boxes"),
    LegendEntry("gt-crowd", "crowd"),
)


def _choose_samples(sets: Mapping[str, CocoDataset], samples: int) -> dict[str, list[tuple[str, int, int]]]:
    """Return the samples of each class, by class name, as (split, dataset_index, class_id)."""
    chosen: dict[str, list[tuple[str, int, int]]] = {}
    for split, coco in sets.items():
        for class_id, name in enumerate(coco.classes.names):
            if name not in chosen:
                picked = select_samples(coco, class_id, samples)
                if picked:
                    chosen[name] = [(split, dataset_index, class_id) for dataset_index in picked]
    return chosen


def samples_section(sets: Mapping[str, CocoDataset], samples: int, embedder: ThumbnailEmbedder) -> ReportSection:
    """Build the section with sample images of each class.

    The samples of a class are evenly spaced over the images with this class in the first split that contains it.
    """
    chosen = _choose_samples(sets, samples)
    long_side = LARGE_THUMBNAIL if sum(map(len, chosen.values())) <= MAX_LARGE_SAMPLES else SMALL_THUMBNAIL
    cards: dict[str, list[Card]] = {name: [] for name in chosen}
    for rank in range(samples):  # one image per class first, because the size limit may omit later ones
        for name, picked_of in chosen.items():
            if rank < len(picked_of):
                split, dataset_index, class_id = picked_of[rank]
                card = _sample_card(sets[split], split, dataset_index, class_id, embedder, long_side)
                cards[name] += [card] if card is not None else []
    blocks: list[Block] = [Messages("note", embedder.messages())] if embedder.messages() else []
    galleries = {name: tuple(of_class) for name, of_class in cards.items() if of_class}
    blocks += [  # one legend is enough
        Gallery(name, of_class, SAMPLE_LEGEND if i == 0 else (), small=True)
        for i, (name, of_class) in enumerate(galleries.items())
    ]
    lead = "Check that boxes are tight, that no object lacks a box, and that classes are annotated consistently."
    return ReportSection("samples", "Samples", lead, tuple(blocks))


def select_samples(coco: CocoDataset, class_id: int, max_images: int) -> list[int]:
    """Return dataset indices of at most `max_images` images with the class, evenly spaced over all such images."""
    of_class = (coco.box_class == class_id) & ~coco.box_crowd
    dataset_index = np.repeat(np.arange(len(coco)), np.diff(coco.box_start))
    rows = np.unique(dataset_index[of_class])
    if len(rows) > max_images:
        rows = rows[np.round(np.linspace(0, len(rows) - 1, max_images)).astype(int)]
    return rows.tolist()


def _sample_card(
    coco: CocoDataset, split: str, dataset_index: int, class_id: int, embedder: ThumbnailEmbedder, long_side: int
) -> Card | None:
    box_xyxy, classes, crowd = coco.boxes(dataset_index)
    names = coco.classes.names
    boxes = [
        GalleryBox((x1, y1, x2, y2), "gt-crowd" if is_crowd else "box0" if i == class_id else "box1", "", names[i])
        for (x1, y1, x2, y2), i, is_crowd in zip(box_xyxy.tolist(), classes.tolist(), crowd.tolist(), strict=True)
    ]
    boxes.sort(key=lambda box: box.style == "box0")  # drawn last, on top
    num_class_boxes = int((classes == class_id).sum())
    caption = f"{num_class_boxes} of {len(boxes)} boxes"
    file_name = coco.name(dataset_index)
    thumbnail = embedder.add(
        coco.path(dataset_index), boxes, f"{file_name}: {caption} are {names[class_id]}", long_side=long_side
    )
    return None if thumbnail is None else Card((thumbnail,), file_name, (f"{split}, {caption}",))


def near_duplicates_section(near_duplicates: DuplicateReport, embedder: ThumbnailEmbedder) -> ReportSection:
    """Build the section with the pairs of near-duplicate images; pairs across splits come first."""
    ranked = sorted(near_duplicates.pairs, key=lambda pair: not pair.is_cross_split)
    cards = [card for pair in ranked[:MAX_PAIRS_DRAWN] if (card := _pair_card(pair, embedder)) is not None]
    blocks: list[Block] = []
    if not near_duplicates.complete:
        blocks.append(Messages("note", ("There are too many similar images; not all pairs were compared.",)))
    if embedder.messages():
        blocks.append(Messages("note", embedder.messages()))
    if cards:
        blocks.append(Gallery("Pairs", tuple(cards), (), f"{len(cards)} of {near_duplicates.total_pairs} are shown."))
        blocks.append(_pair_table(ranked))
    omitted = f"{near_duplicates.low_contrast} with too little contrast, {near_duplicates.unreadable} unreadable"
    blocks.append(Paragraph(f"{near_duplicates.images} images were compared ({omitted})."))
    lead = "No near-duplicates."
    if near_duplicates.total_pairs:
        lead = (
            f"{near_duplicates.total_pairs} pairs of near-duplicates, {near_duplicates.cross_split_pairs} of them "
            "across splits. Across splits they inflate AP; within a split they count one scene twice."
        )
    return ReportSection("near-duplicates", "Near-duplicates", lead, tuple(blocks))


def _pair_card(pair: DuplicatePair, embedder: ThumbnailEmbedder) -> Card | None:
    images = []
    for one in (pair.first, pair.second):
        thumbnail = embedder.add(one.path, (), f"{one.split}: {one.path.name}", long_side=260)
        if thumbnail is None:
            return None
        images.append(thumbnail)
    similarity = f"similarity {pair.similarity:.2f}{', mirrored' if pair.mirrored else ''}"
    splits = "in different splits" if pair.is_cross_split else f"both in {pair.first.split}"
    lines = tuple(f"{one.split}: {one.path.name}" for one in (pair.first, pair.second))
    return Card(tuple(images), f"{splits}, {similarity}", lines)


def _pair_table(ranked: list[DuplicatePair]) -> Table:
    columns = (
        *(Column("split"), Column("image"), Column("other split"), Column("other image")),
        *(
            Column("similarity", 3, True),
            Column("distance", None, True, tooltip="bits of the hashes that differ"),
            Column("mirrored"),
        ),
    )
    rows = tuple(
        (
            *(one.first.split, one.first.path.name, one.second.split, one.second.path.name),
            *(one.similarity, one.distance, "yes" if one.mirrored else "no"),
        )
        for one in ranked[:MAX_PAIRS_LISTED]
    )
    caption = "Pairs" if len(ranked) <= MAX_PAIRS_LISTED else f"The first {MAX_PAIRS_LISTED} pairs"
    return Table(caption, columns, rows, collapsed=True)
