"""Report sections with the images on which two runs differ most, with the boxes before and after."""

from __future__ import annotations

from dataclasses import replace

from cspdet.analysis.findings import ChangedImage, WorstImage
from cspdet.analysis.structures import Comparison
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.reports.analysis_images import LARGE_SIDE, LEGEND, error_caption, image_boxes
from cspdet.reports.components import Block, Card, Gallery, Messages, ReportSection
from cspdet.reports.thumbnails import GalleryBox, ThumbnailEmbedder

LAYERS = ("before", "after")


def changed_images_sections(
    comparison: Comparison, coco: CocoDataset, gallery: int, embedder: ThumbnailEmbedder
) -> list[ReportSection]:
    """Build one section per run after the first: the images whose errors differ most from those of the first run.

    A run without such images has no section.
    """
    sections = []
    for number, one in enumerate(comparison.against_first, start=2):
        cards = [card for image in one.changed_images[:gallery] if (card := _card(image, coco, embedder)) is not None]
        if not cards:
            continue
        title = f"{one.first}, then {one.other}"
        note = (
            f"Before: {one.first}. After: {one.other}. Each run has its own score threshold. Correct detections are "
            "not drawn. Select an image to enlarge it."
        )
        blocks: list[Block] = [Gallery(title, tuple(cards), LEGEND[:2] + LEGEND[3:4], note, layers=LAYERS)]
        blocks += [Messages("note", embedder.messages())] if embedder.messages() else []
        lead = "The images whose errors changed most: missed boxes plus the scores of wrong detections."
        sections.append(ReportSection(f"changes-run{number}", f"Before and after: {one.other}", lead, tuple(blocks)))
    return sections


def _card(image: ChangedImage, coco: CocoDataset, embedder: ThumbnailEmbedder) -> Card | None:
    sides = (image.before, image.after)
    boxes = [box for side, layer in zip(sides, LAYERS, strict=True) for box in _layer_boxes(side, layer)]
    scores = f"error score {image.before.error_score:.2f} before, {image.after.error_score:.2f} after"
    name = image.before.file_name
    thumbnail = embedder.add(coco.path(image.before.dataset_index), boxes, f"{name}: {scores}", long_side=LARGE_SIDE)
    if thumbnail is None:
        return None
    lines = (scores, *(f"{layer}: {error_caption(side)}" for side, layer in zip(sides, LAYERS, strict=True)))
    return Card((thumbnail,), name, lines)


def _layer_boxes(side: WorstImage, layer: str) -> list[GalleryBox]:
    """Return the annotated boxes and the wrong detections of one run, as boxes of the layer `layer` of a gallery."""
    named = [one.class_name for one in side.annotations] + [one.class_name for one in side.detections]
    names = tuple(dict.fromkeys(named))
    boxes = image_boxes(replace(side, other_detections=()), names)
    return [replace(box, data=(("layer", layer),)) for box in boxes if box.style != "detection-correct"]
