"""The pictures of a data set: some of each class with their boxes, and pairs that look the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cspdet.datasets.checks.near_duplicates import TwinReport, Twins
from cspdet.datasets.formats.coco import CocoSet
from cspdet.reports.components import Block, Card, Column, Findings, Gallery, Key, Paragraph, Section, Table
from cspdet.reports.thumbnails import Album, Box

PAIRS_SHOWN = 24
PAIRS_LISTED = 200
MANY_SAMPLES = 60  # beyond so many, samples are shown smaller
LARGE, SMALL = 400, 260  # pixels of the long side
SAMPLE_KEYS = (Key("box0", "boxes of the class"), Key("box1", "other boxes"), Key("truth-crowd", "crowd"))


def samples_section(sets: Mapping[str, CocoSet], samples: int, album: Album) -> Section:
    """Pictures of each class, from the first split that has any, spread evenly over it."""
    chosen: dict[str, list[tuple[str, int, int]]] = {}  # class name to (split, picture, class)
    for split, coco in sets.items():
        for class_id, name in enumerate(coco.classes.names):
            if name not in chosen:
                picked = pick_samples(coco, class_id, samples)
                if picked:
                    chosen[name] = [(split, picture, class_id) for picture in picked]
    long_side = LARGE if sum(map(len, chosen.values())) <= MANY_SAMPLES else SMALL
    cards: dict[str, list[Card]] = {name: [] for name in chosen}
    for rank in range(samples):  # a picture of each class before the second of any, should the room not do for all
        for name, picked_of in chosen.items():
            if rank < len(picked_of):
                split, picture, class_id = picked_of[rank]
                card = _sample_card(sets[split], split, picture, class_id, album, long_side)
                cards[name] += [card] if card is not None else []
    blocks: list[Block] = [Findings("note", album.notes())] if album.notes() else []
    shown = {name: tuple(of_class) for name, of_class in cards.items() if of_class}
    blocks += [  # one legend is enough
        Gallery(name, of_class, SAMPLE_KEYS if i == 0 else (), small=True)
        for i, (name, of_class) in enumerate(shown.items())
    ]
    lead = "Are the boxes tight, is anything left without a box, do all annotators mean the same by a class?"
    return Section("samples", "Samples", lead, tuple(blocks))


def pick_samples(coco: CocoSet, class_id: int, most: int) -> list[int]:
    """Rows of at most `most` pictures with boxes of a class, spread evenly over the set."""
    of_class = (coco.box_class == class_id) & ~coco.box_crowd
    picture = np.repeat(np.arange(len(coco)), np.diff(coco.box_start))
    rows = np.unique(picture[of_class])
    if len(rows) > most:
        rows = rows[np.round(np.linspace(0, len(rows) - 1, most)).astype(int)]
    return rows.tolist()


def _sample_card(coco: CocoSet, split: str, picture: int, class_id: int, album: Album, long_side: int) -> Card | None:
    box_xyxy, classes, crowd = coco.boxes(picture)
    names = coco.classes.names
    boxes = [
        Box((x1, y1, x2, y2), "truth-crowd" if is_crowd else "box0" if i == class_id else "box1", "", names[i])
        for (x1, y1, x2, y2), i, is_crowd in zip(box_xyxy.tolist(), classes.tolist(), crowd.tolist(), strict=True)
    ]
    boxes.sort(key=lambda box: box.style == "box0")  # on top
    own = int((classes == class_id).sum())
    told = f"{own} of {len(boxes)} boxes"
    file_name = coco.name(picture)
    shown = album.show(coco.path(picture), boxes, f"{file_name}: {told} are {names[class_id]}", long_side=long_side)
    return None if shown is None else Card((shown,), file_name, (f"{split}, {told}",))


def twins_section(twins: TwinReport, album: Album) -> Section:
    """Pairs of pictures that look the same, those across splits first."""
    ranked = sorted(twins.pairs, key=lambda pair: not pair.across)
    cards = [card for pair in ranked[:PAIRS_SHOWN] if (card := _pair_card(pair, album)) is not None]
    blocks: list[Block] = []
    if not twins.complete:
        blocks.append(Findings("note", ("So many pictures are alike that not all pairs were compared.",)))
    if album.notes():
        blocks.append(Findings("note", album.notes()))
    if cards:
        blocks.append(Gallery("Pairs", tuple(cards), (), f"{len(cards)} of {twins.found} are shown."))
        blocks.append(_pair_table(ranked))
    left_out = f"{twins.even} too even to compare, {twins.unreadable} unreadable"
    blocks.append(Paragraph(f"{twins.pictures} pictures were compared ({left_out})."))
    found = f"Pairs of pictures that look the same: {twins.found}, of which {twins.across} are in different splits. "
    why = "Twins across splits make AP better than it is; within a split they count one scene twice."
    lead = found + why if twins.found else "No two pictures look the same."
    return Section("twins", "Duplicates and near-twins", lead, tuple(blocks))


def _pair_card(pair: Twins, album: Album) -> Card | None:
    pictures = []
    for one in (pair.first, pair.second):
        shown = album.show(one.path, (), f"{one.split}: {one.path.name}", long_side=260)
        if shown is None:
            return None
        pictures.append(shown)
    alike = f"likeness {pair.likeness:.2f}{', mirrored' if pair.mirrored else ''}"
    where = "in different splits" if pair.across else f"both in {pair.first.split}"
    lines = tuple(f"{one.split}: {one.path.name}" for one in (pair.first, pair.second))
    return Card(tuple(pictures), f"{where}, {alike}", lines)


def _pair_table(ranked: list[Twins]) -> Table:
    columns = (
        *(Column("split"), Column("picture"), Column("other split"), Column("other picture")),
        *(
            Column("likeness", 3, True),
            Column("distance", None, True, meaning="bits of the hashes that differ"),
            Column("mirrored"),
        ),
    )
    rows = tuple(
        (
            *(one.first.split, one.first.path.name, one.second.split, one.second.path.name),
            *(one.likeness, one.distance, "yes" if one.mirrored else "no"),
        )
        for one in ranked[:PAIRS_LISTED]
    )
    caption = "Pairs" if len(ranked) <= PAIRS_LISTED else f"The first {PAIRS_LISTED} pairs"
    return Table(caption, columns, rows, folded=True)
