"""Report sections with images of a run: the worst images, and possible label issues."""

from __future__ import annotations

from dataclasses import replace

from cspdet.analysis.findings import LABEL_ISSUE_TYPES, AnnotatedBox, DetectedBox, LabelIssue, LabelIssues, WorstImage
from cspdet.analysis.structures import Analysis
from cspdet.analysis.worst import MIN_SCORE
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.reports.components import Block, Card, Column, Gallery, LegendEntry, Messages, ReportSection, Table
from cspdet.reports.thumbnails import GalleryBox, ThumbnailEmbedder, square_crop

ERROR_TYPE_TAGS = {
    "correct": "",
    "classification": "C",
    "localization": "L",
    "both": "CL",
    "duplicate": "D",
    "background": "B",
    "ignored": "",
}
LEGEND = (
    LegendEntry("gt-matched", "detected box"),
    LegendEntry("gt-missed", "M: missed box"),
    LegendEntry("detection-correct", "correct detection"),
    LegendEntry("detection-wrong", "wrong: C class, L localization, CL both, D duplicate, B background"),
    LegendEntry("gt-crowd", "crowd, or detection in a crowd"),
)
WORST_COLUMNS = (
    Column("image"),
    Column("image id", None, True),
    Column("error score", 2, True),
    Column("missed", None, True),
    Column("wrong", None, True),
    Column("boxes", None, True),
)
LARGE_SIDE = 800  # longer side of an image in pixels, which readers enlarge
LABEL_ISSUE_LEGEND = (LegendEntry("label-issue", "possible issue"), LegendEntry("gt-matched", "annotated boxes"))
LABEL_ISSUE_DESCRIPTIONS = {
    "missing box": "Confident detections without an annotated box: the box may be missing.",
    "wrong class": "Confident detections on a box of another class: the annotated class may be wrong.",
    "spurious box": "Boxes without any detection, not even one of low score: there may be no object.",
}


def worst_images_blocks(
    analysis: Analysis, coco: CocoDataset, gallery: int, embedder: ThumbnailEmbedder, key: str
) -> tuple[Block, ...]:
    """Build the gallery and the table of the images that have the most errors, worst first.

    Args:
        analysis: The analysis of the run.
        coco: The split of the run.
        gallery: Maximum number of images in the gallery.
        embedder: Embeds the images.
        key: Identifier of the explorer that controls the gallery; empty: the page has no explorer.
    """
    worst_images = analysis.worst_images[:gallery]
    cards = [card for worst in worst_images if (card := _worst_card(worst, coco, embedder, analysis)) is not None]
    rows = tuple(
        (w.file_name, w.image_id, w.error_score, w.missed, w.wrong, len(w.annotations)) for w in analysis.worst_images
    )
    note = (
        f"Sorted by missed boxes plus the scores of wrong detections at the threshold {analysis.threshold:.3f}. "
        f"Detections below a score of {MIN_SCORE:g} are not drawn. Select an image to enlarge it; enlarged images have "
        "letters."
    )
    blocks: list[Block] = [Gallery("Worst images", tuple(cards), LEGEND, note, explorer_key=key)] if cards else []
    blocks += [Messages("note", embedder.messages())] if embedder.messages() else []
    return (*blocks, Table("List of the worst images", WORST_COLUMNS, rows, collapsed=True))


def _worst_card(worst: WorstImage, coco: CocoDataset, embedder: ThumbnailEmbedder, analysis: Analysis) -> Card | None:
    caption = error_caption(worst)
    boxes = image_boxes(worst, analysis.class_names)
    thumbnail = embedder.add(
        coco.path(worst.dataset_index), boxes, f"{worst.file_name}: {caption}", long_side=LARGE_SIDE
    )
    if thumbnail is None:
        return None
    details = [box.text for box in boxes if box.style in ("gt-missed", "detection-wrong") and not box.is_hidden]
    return Card((thumbnail,), worst.file_name, (caption,), tuple(details), f"errors: {len(details)}")


def error_caption(worst: WorstImage) -> str:
    """Return the numbers of missed boxes, wrong and correct detections of an image as text."""
    right = sum(one.detection_type == "correct" for one in worst.detections)
    count = sum(not annotation.crowd for annotation in worst.annotations)
    boxes = f"{count} box" if count == 1 else f"{count} boxes"
    return f"{worst.missed} of {boxes} missed; detections: {worst.wrong} wrong, {right} correct"


def image_boxes(worst: WorstImage, class_names: tuple[str, ...]) -> list[GalleryBox]:
    """Return the annotated boxes and the detections of an image; detections that are not kept are hidden."""
    class_id = {name: i for i, name in enumerate(class_names)}
    boxes = [_annotated_box(one, class_id[one.class_name]) for one in worst.annotations]
    boxes += [_detected_box(one, class_id[one.class_name]) for one in worst.detections]
    others = [_detected_box(one, class_id[one.class_name]) for one in worst.other_detections]
    return boxes + [replace(box, is_hidden=True) for box in others]


def _annotated_box(annotation: AnnotatedBox, class_id: int) -> GalleryBox:
    box_xyxy, name = xywh_to_xyxy(annotation.box_xywh), annotation.class_name
    if annotation.crowd:
        return GalleryBox(box_xyxy, "gt-crowd", "", f"crowd of {name}", (("kind", "crowd"), ("class", str(class_id))))
    style, status = ("gt-matched", "detected") if annotation.detected else ("gt-missed", "missed")
    score = "" if annotation.score is None else repr(annotation.score)
    data = (("kind", "annotated"), ("class", str(class_id)), ("score", score))
    return GalleryBox(box_xyxy, style, "M", f"{name}, annotated, {status}", data)


def _detected_box(one: DetectedBox, class_id: int) -> GalleryBox:
    style = {"correct": "detection-correct", "ignored": "gt-crowd"}.get(one.detection_type, "detection-wrong")
    text = f"{one.class_name} {one.score:.2f}: {one.detection_type}"
    data = (("kind", "detection"), ("class", str(class_id)), ("score", repr(one.score)), ("type", one.detection_type))
    return GalleryBox(xywh_to_xyxy(one.box_xywh), style, ERROR_TYPE_TAGS[one.detection_type], text, data)


def xywh_to_xyxy(box_xywh: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Convert a box from x, y, width, height to corners x1, y1, x2, y2."""
    x, y, width, height = box_xywh
    return x, y, x + width, y + height


def _label_issues_table(label_issues: LabelIssues) -> Table:
    columns = (
        Column("type"),
        Column("image"),
        Column("class"),
        Column("annotated"),
        Column("score", 3, True),
        Column("IoU", 2, True),
    )
    rows = tuple(
        (one.issue_type, one.file_name, one.class_name, one.annotated_class, one.score, one.iou)
        for one in label_issues.issues
    )
    return Table("Label issues", columns, rows, collapsed=True)


def label_issues_section(
    analysis: Analysis, coco: CocoDataset, gallery: int, embedder: ThumbnailEmbedder
) -> ReportSection:
    """Build the section with crops of the images around annotations that may be wrong."""
    label_issues = analysis.label_issues
    blocks: list[Block] = []
    for issue_type, total in zip(LABEL_ISSUE_TYPES, label_issues.totals, strict=True):
        of_type = [one for one in label_issues.issues if one.issue_type == issue_type][:gallery]
        cards = [card for one in of_type if (card := _label_issue_card(one, coco, embedder)) is not None]
        if cards:
            note = f"{LABEL_ISSUE_DESCRIPTIONS[issue_type]} {len(cards)} of {total}."
            blocks.append(Gallery(issue_type, tuple(cards), LABEL_ISSUE_LEGEND, note, small=True))
    blocks += [Messages("note", embedder.messages())] if embedder.messages() else []
    blocks.append(_label_issues_table(label_issues))
    lead = (
        f"A confident detection (score of at least {label_issues.min_score:.3f}) contradicts the annotation, or a box "
        "has no detection at all. Often the detector is wrong; where it is right, fix the annotation."
    )
    return ReportSection("label-issues", "Possible label issues", lead, tuple(blocks))


def _label_issue_card(one: LabelIssue, coco: CocoDataset, embedder: ThumbnailEmbedder) -> Card | None:
    box_xyxy = xywh_to_xyxy(one.box_xywh)
    annotated_xyxy, class_id, _ = coco.boxes(one.dataset_index)
    names, (height, width) = coco.classes.names, coco.size_hw[one.dataset_index].tolist()
    x1, y1, x2, y2 = box_xyxy
    clipped_xyxy = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))  # as the dataset clips it
    boxes = [
        GalleryBox((x1, y1, x2, y2), "gt-matched", "", f"{names[i]}, annotated")
        for (x1, y1, x2, y2), i in zip(annotated_xyxy.tolist(), class_id.tolist(), strict=True)
        if one.issue_type != "spurious box" or not boxes_equal((x1, y1, x2, y2), clipped_xyxy)
    ]
    caption = one.class_name if one.score is None else f"{one.class_name} {one.score:.2f}"
    if one.annotated_class is not None:
        caption = f"{caption}, annotated as {one.annotated_class}"
    boxes.append(GalleryBox(box_xyxy, "label-issue", "", caption))
    thumbnail = embedder.add(
        coco.path(one.dataset_index),
        boxes,
        f"{one.file_name}: {caption}, {one.issue_type}",
        crop_xyxy=square_crop(box_xyxy),
        long_side=300,
    )
    return None if thumbnail is None else Card((thumbnail,), caption, (one.file_name,))


def boxes_equal(one_xyxy: tuple[float, float, float, float], other_xyxy: tuple[float, float, float, float]) -> bool:
    """Return whether two boxes are equal up to the rounding error of float32."""
    return all(abs(a - b) <= 0.01 for a, b in zip(one_xyxy, other_xyxy, strict=True))
