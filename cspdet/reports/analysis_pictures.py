"""The pictures of a run: the worst with everything on them, and the places where the annotation may be wrong."""

from __future__ import annotations

from cspdet.analysis.structures import SUSPECT_KINDS, Analysis, ShownDetection, ShownTruth, Suspect, WorstPicture
from cspdet.datasets.formats.coco import CocoSet
from cspdet.reports.components import Block, Card, Column, Findings, Gallery, Key, Section, Table
from cspdet.reports.thumbnails import Album, Box, around

LETTERS = {
    "correct": "",
    "classification": "C",
    "localization": "L",
    "both": "CL",
    "duplicate": "D",
    "background": "B",
    "ignored": "",
}
KEYS = (
    Key("truth-found", "box, found"),
    Key("truth-missed", "M: box, missed"),
    Key("found-right", "detection, correct"),
    Key("found-wrong", "wrong: C class, L place, CL both, D duplicate, B background"),
    Key("truth-crowd", "crowd, or detection in one"),
)
SUSPECT_KEYS = (Key("suspect", "the suspect"), Key("truth-found", "annotated boxes"))
EXPLAINED = {
    "box missing?": "Confident detections where nothing is annotated: is a box missing there?",
    "class wrong?": "Confident detections right on a box of another class: is its class wrong?",
    "box there?": "Boxes on which nothing was found, not even with a low score: is there anything?",
}


def worst_section(analysis: Analysis, coco: CocoSet, gallery: int, album: Album) -> Section:
    """The pictures with the most errors, worst first."""
    cards = []
    for worst in analysis.worst[:gallery]:
        card = _worst_card(worst, coco, album)
        if card is not None:
            cards.append(card)
    lead = (
        f"Ranked by missed boxes plus the scores of wrong detections, among those with a score of at least "
        f"{analysis.threshold:.3f}. Rest the pointer on a box to read it."
    )
    columns = (
        Column("picture"),
        Column("image id", None, True),
        Column("badness", 2, True),
        Column("missed", None, True),
        Column("wrong", None, True),
        Column("boxes", None, True),
    )
    rows = tuple((w.file_name, w.image_id, w.badness, w.missed, w.wrong, len(w.truths)) for w in analysis.worst)
    blocks: list[Block] = [Gallery("Worst first", tuple(cards), KEYS)] if cards else []
    blocks += [Findings("note", album.notes())] if album.notes() else []
    return Section("worst", "Worst pictures", lead, (*blocks, Table("The worst pictures", columns, rows, folded=True)))


def _worst_card(worst: WorstPicture, coco: CocoSet, album: Album) -> Card | None:
    boxes = [_truth(truth) for truth in worst.truths] + [_detection(one) for one in worst.detections]
    right = sum(one.kind == "correct" for one in worst.detections)
    told = f"{worst.missed} of {boxes_in(worst)} missed; of its detections {worst.wrong} wrong, {right} correct"
    picture = album.show(coco.path(worst.picture), boxes, f"{worst.file_name}: {told}")
    if picture is None:
        return None
    details = [box.text for box in boxes if box.style in ("truth-missed", "found-wrong")]
    return Card((picture,), worst.file_name, (told,), tuple(details), f"errors: {len(details)}")


def boxes_in(worst: WorstPicture) -> str:
    """Its boxes that could be found, in words."""
    count = sum(not truth.crowd for truth in worst.truths)
    return f"{count} box" if count == 1 else f"{count} boxes"


def _truth(truth: ShownTruth) -> Box:
    if truth.crowd:
        return Box(corners(truth.box_xywh), "truth-crowd", "", f"crowd of {truth.class_name}")
    style, tag, told = ("truth-found", "", "found") if truth.found else ("truth-missed", "M", "missed")
    return Box(corners(truth.box_xywh), style, tag, f"{truth.class_name}, annotated, {told}")


def _detection(one: ShownDetection) -> Box:
    style = {"correct": "found-right", "ignored": "truth-crowd"}.get(one.kind, "found-wrong")
    return Box(corners(one.box_xywh), style, LETTERS[one.kind], f"{one.class_name} {one.score:.2f}: {one.kind}")


def corners(box_xywh: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """x, y, width, height as x1, y1, x2, y2."""
    x, y, width, height = box_xywh
    return x, y, x + width, y + height


def suspects_section(analysis: Analysis, coco: CocoSet, gallery: int, album: Album) -> Section:
    """Places to look at in the annotations, each cut out with what is around it."""
    found = analysis.suspects
    blocks: list[Block] = []
    for kind, total in zip(SUSPECT_KINDS, found.totals, strict=True):
        of_kind = [one for one in found.listed if one.kind == kind][:gallery]
        cards = [card for one in of_kind if (card := _suspect_card(one, coco, album)) is not None]
        if cards:
            note = f"{EXPLAINED[kind]} {len(cards)} of {total}."
            blocks.append(Gallery(kind, tuple(cards), SUSPECT_KEYS, note, small=True))
    blocks += [Findings("note", album.notes())] if album.notes() else []
    columns = (
        Column("kind"),
        Column("picture"),
        Column("class"),
        Column("annotated"),
        Column("score", 3, True),
        Column("overlap", 2, True),
    )
    rows = tuple((one.kind, one.file_name, one.class_name, one.other_class, one.score, one.iou) for one in found.listed)
    blocks.append(Table("Suspects", columns, rows, folded=True))
    lead = (
        f"The detector disagrees with the annotation and is sure of it (a score of at least {found.min_score:.3f}), "
        "or finds no trace of a box. Often it is the detector that is wrong; where it is right, mend the annotation."
    )
    return Section("suspects", "Suspect annotations", lead, tuple(blocks))


def _suspect_card(one: Suspect, coco: CocoSet, album: Album) -> Card | None:
    box_xyxy = corners(one.box_xywh)
    truth_xyxy, class_id, _ = coco.boxes(one.picture)
    names, (height, width) = coco.classes.names, coco.size_hw[one.picture].tolist()
    x1, y1, x2, y2 = box_xyxy
    own_xyxy = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))  # as the set has it
    boxes = [
        Box((x1, y1, x2, y2), "truth-found", "", f"{names[i]}, annotated")
        for (x1, y1, x2, y2), i in zip(truth_xyxy.tolist(), class_id.tolist(), strict=True)
        if one.kind != "box there?" or not same_box((x1, y1, x2, y2), own_xyxy)
    ]
    told = one.class_name if one.score is None else f"{one.class_name} {one.score:.2f}"
    if one.other_class is not None:
        told = f"{told}, annotated as {one.other_class}"
    boxes.append(Box(box_xyxy, "suspect", "", told))
    picture = album.show(
        coco.path(one.picture), boxes, f"{one.file_name}: {told}, {one.kind}", crop_xyxy=around(box_xyxy), long_side=300
    )
    return None if picture is None else Card((picture,), told, (one.file_name,))


def same_box(one_xyxy: tuple[float, float, float, float], other_xyxy: tuple[float, float, float, float]) -> bool:
    """Equal but for rounding to float32."""
    return all(abs(a - b) <= 0.01 for a, b in zip(one_xyxy, other_xyxy, strict=True))
