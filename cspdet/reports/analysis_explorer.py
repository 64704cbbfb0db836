"""Report section with a slider of the score threshold: live counts, filters by class and error type, worst images."""

from __future__ import annotations

import numpy as np

from cspdet.analysis.findings import ERROR_TYPES
from cspdet.analysis.metrics import ThresholdCounts
from cspdet.analysis.structures import Analysis
from cspdet.analysis.worst import MIN_SCORE
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.reports.analysis_images import worst_images_blocks
from cspdet.reports.components import CellValue, Column, Explorer, ReportSection, Table
from cspdet.reports.thumbnails import ThumbnailEmbedder

WRONG_TYPES = ERROR_TYPES[:-1]  # of detections; the last error type is the missed box
LIVE_COLUMNS = (
    Column("class"),
    Column("boxes", None, True, tooltip="annotated, without crowds"),
    Column("TP", None, True, tooltip="true positives: correct detections"),
    Column("FP", None, True, tooltip="false positives: wrong detections"),
    Column("FN", None, True, tooltip="false negatives: missed boxes"),
    Column("precision", 3, True, 1.0, tooltip="TP / (TP + FP)"),
    Column("recall", 3, True, 1.0, tooltip="TP / boxes"),
    Column("F1", 3, True, 1.0, tooltip="2 TP / (2 TP + FP + FN)"),
)


def explorer_section(
    analysis: Analysis, coco: CocoDataset, gallery: int, embedder: ThumbnailEmbedder, key: str
) -> ReportSection:
    """Build the section with the slider, the counts at the threshold and the worst images.

    Args:
        analysis: The analysis of the run.
        coco: The split of the run.
        gallery: Maximum number of images.
        embedder: Embeds the images.
        key: Identifier of the explorer in the page.
    """
    lead = (
        f"Counts of detections with at least the selected score, at IoU {analysis.iou:g}. Move the slider, or select a "
        "class or an error type: counts and images change."
    )
    images = worst_images_blocks(analysis, coco, gallery, embedder, key)
    return ReportSection("explore", "Errors by threshold", lead, (build_explorer(analysis, key), *images))


def build_explorer(analysis: Analysis, key: str) -> Explorer:
    """Build the slider and the tables, with the values at `Analysis.threshold`."""
    counts = analysis.threshold_counts
    start = int(np.searchsorted(counts.threshold, analysis.threshold))
    by_class = [_values(*_class_counts(counts, class_id, start)) for class_id in range(len(analysis.classes))]
    rows = tuple((name, *values) for name, values in zip(analysis.class_names, by_class, strict=True))
    totals = np.sum([_class_counts(counts, i, start) for i in range(len(rows))], axis=0).tolist() if rows else [0] * 3
    values = tuple(zip([column.label for column in LIVE_COLUMNS[1:]], _values(*totals), strict=True))
    return Explorer(
        key, _script_data(analysis), start, values, Table("Each class at the threshold", LIVE_COLUMNS, rows),
        _error_types_table(counts, start),
    )  # fmt: skip


def _class_counts(counts: ThresholdCounts, class_id: int, index: int) -> tuple[int, int, int]:
    """Return the numbers of boxes, correct detections and wrong detections of a class at a threshold index."""
    wrong = sum(int(counts.counts[name][class_id, index]) for name in WRONG_TYPES)
    return int(counts.num_gt[class_id]), int(counts.counts["correct"][class_id, index]), wrong


def _values(boxes: int, correct: int, wrong: int) -> tuple[CellValue, ...]:
    """Return boxes, TP, FP, FN, precision, recall and F1; undefined values are None."""
    return (
        *(boxes, correct, wrong, boxes - correct),
        correct / (correct + wrong) if correct + wrong else None,
        correct / boxes if boxes else None,
        2 * correct / (boxes + correct + wrong) if boxes else None,
    )


def _error_types_table(counts: ThresholdCounts, index: int) -> Table:
    rows = [(name, int(counts.counts[name][:, index].sum())) for name in WRONG_TYPES]
    missed = int(counts.num_gt.sum()) - int(counts.counts["correct"][:, index].sum())
    columns = (Column("error type"), Column("count", None, True, tooltip="at the selected threshold"))
    return Table("Errors at the threshold", columns, (*rows, ("missed", missed)))


def _script_data(analysis: Analysis) -> dict[str, object]:
    """Return the data for the script of the page. Zeros at the end of each list in `counts` are omitted."""
    counts = analysis.threshold_counts
    return {
        "thresholds": counts.threshold.tolist(),
        "min_score": MIN_SCORE,
        "best": int(np.searchsorted(counts.threshold, analysis.thresholds.best_f1_point.threshold)),
        "classes": list(analysis.class_names),
        "boxes": counts.num_gt.tolist(),
        "types": list(WRONG_TYPES),
        "counts": {
            name: [np.trim_zeros(row, "b").tolist() for row in counts.counts[name]]
            for name in ("correct", *WRONG_TYPES)
        },
    }
