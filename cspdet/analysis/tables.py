"""Write an analysis to files: one JSON document, and one CSV file per table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cspdet.analysis.structures import Analysis, Comparison, Json
from cspdet.io.atomic import write_text
from cspdet.io.csv_text import CsvRow, format_csv


def analysis_document(analyses: Sequence[Analysis], comparison: Comparison | None) -> Json:
    """Return the content of analysis.json: {"runs": [...], "comparison": {...} or null}."""
    return {
        "runs": [analysis.to_json() for analysis in analyses],
        "comparison": None if comparison is None else comparison.to_json(),
    }


def write_tables(folder: Path, analyses: Sequence[Analysis], comparison: Comparison | None) -> list[str]:
    """Write analysis.json and the CSV files; the first column of each table is the name of the run.

    Returns:
        The names of the written files.

    Raises:
        UserError: A file cannot be written.
    """
    document = json.dumps(analysis_document(analyses, comparison), allow_nan=False)
    write_text(folder / "analysis.json", document + "\n")
    written = ["analysis.json"]
    for name, (header, rows_of) in TABLES.items():
        rows = ([analysis.name, *row] for analysis in analyses for row in rows_of(analysis))
        write_text(folder / name, format_csv(("run", *header), rows))
        written.append(name)
    if comparison is not None:
        write_text(folder / "comparison.csv", format_csv(COMPARISON_HEADER, _comparison_rows(comparison)))
        written.append("comparison.csv")
    return written


def _class_rows(analysis: Analysis) -> Iterable[CsvRow]:
    for one in analysis.classes:
        best, now = one.best_f1_point, one.at_threshold
        counts = (one.name, one.num_gt, one.crowds, one.images, one.detections)
        yield (
            *(*counts, one.AP, one.AP50, one.AP75, one.AR100),
            *(best.threshold, best.precision, best.recall, best.f1),
            *(now.threshold, now.precision, now.recall, now.f1, one.ece),
        )


def _error_rows(analysis: Analysis) -> Iterable[CsvRow]:
    errors = analysis.errors
    yield "correct", errors.correct, errors.kept_correct, None
    for one in errors.costs:
        yield one.error_type, one.count, one.kept, one.ap_cost
    yield "ignored", errors.ignored, errors.kept_ignored, None
    yield "all wrong detections", sum(one.count for one in errors.costs[:-1]), None, errors.false_positive_cost
    yield "all boxes not found", errors.missed, None, errors.false_negative_cost


def _confusion_rows(analysis: Analysis) -> Iterable[CsvRow]:
    names = (*analysis.class_names, "background")
    for i, j in np.argwhere(analysis.confusion.counts).tolist():
        yield names[i], names[j], int(analysis.confusion.counts[i, j])


def _calibration_rows(analysis: Analysis) -> Iterable[CsvRow]:
    for one in analysis.calibration.bins:
        yield one.low, one.high, one.count, one.mean_score, one.accuracy


def _curve_rows(analysis: Analysis) -> Iterable[CsvRow]:
    for curve in analysis.precision_recall:
        for name, row in zip((ALL_CLASSES, *analysis.class_names), (curve.mean, *curve.per_class), strict=True):
            if not np.isnan(row[0]):
                for recall, precision in zip(curve.recall.tolist(), row.tolist(), strict=True):
                    yield curve.iou, name, recall, precision


def _threshold_rows(analysis: Analysis) -> Iterable[CsvRow]:
    curves = analysis.thresholds
    together = (curves.precision, curves.recall, curves.f1)
    by_class = zip(curves.class_precision, curves.class_recall, curves.class_f1, strict=True)
    for name, columns in zip((ALL_CLASSES, *analysis.class_names), (together, *by_class), strict=True):
        for threshold, *row in zip(curves.threshold.tolist(), *(column.tolist() for column in columns), strict=True):
            yield name, threshold, *row


def _label_issue_rows(analysis: Analysis) -> Iterable[CsvRow]:
    for one in analysis.label_issues.issues:
        location = (one.image_id, one.file_name, *one.box_xywh)
        yield one.issue_type, *location, one.class_name, one.score, one.annotated_class, one.iou


def _group_rows(analysis: Analysis) -> Iterable[CsvRow]:
    parts = analysis.breakdown
    for size in (*parts.sizes, *parts.quartiles):
        yield "size", size.name, size.low, size.high, None, size.num_gt, size.AP, size.AP50, size.AR100, None
    for group in parts.image_groups:
        limits = (float(group.low), float(group.high))
        yield (
            "boxes per image",
            group.name,
            *limits,
            group.images,
            group.num_gt,
            group.AP,
            group.AP50,
            group.AR100,
            None,
        )
    for overlap in parts.overlap_groups:
        yield "overlap", overlap.name, None, None, None, overlap.num_gt, None, None, overlap.AR100, overlap.recall


def _worst_image_rows(analysis: Analysis) -> Iterable[CsvRow]:
    for one in analysis.worst_images:
        yield one.image_id, one.file_name, one.error_score, one.missed, one.wrong


ALL_CLASSES = "(all)"
TABLES = {
    "classes.csv": (
        (
            *("class", "boxes", "crowds", "images", "detections", "AP", "AP50", "AP75", "AR100"),
            *("best_threshold", "best_precision", "best_recall", "best_f1"),
            *("threshold", "precision", "recall", "f1", "calibration_error"),
        ),
        _class_rows,
    ),
    "errors.csv": (("type", "count", "kept", "ap_cost"), _error_rows),
    "confusion.csv": (("ground_truth", "detection", "count"), _confusion_rows),
    "groups.csv": (
        ("by", "group", "low", "high", "images", "boxes", "AP", "AP50", "AR100", "recall"),
        _group_rows,
    ),
    "calibration.csv": (("low", "high", "detections", "mean_score", "accuracy"), _calibration_rows),
    "curves.csv": (("iou", "class", "recall", "precision"), _curve_rows),
    "thresholds.csv": (("class", "threshold", "precision", "recall", "f1"), _threshold_rows),
    "label_issues.csv": (
        (
            *("type", "image_id", "file_name", "x", "y", "width", "height"),
            *("class", "score", "annotated_class", "iou"),
        ),
        _label_issue_rows,
    ),
    "worst.csv": (("image_id", "file_name", "error_score", "missed", "wrong"), _worst_image_rows),
}

COMPARISON_HEADER = (
    "first",
    "other",
    "metric",
    "class",
    "first_value",
    "other_value",
    "difference",
    "low",
    "high",
    "p",
)


def _comparison_rows(comparison: Comparison) -> Iterable[CsvRow]:
    for one in comparison.against_first:
        names = (one.first, one.other)
        for whole in (one.AP, one.AP50):
            yield (
                *names,
                whole.metric,
                ALL_CLASSES,
                whole.first,
                whole.other,
                whole.difference,
                whole.low,
                whole.high,
                whole.p_value,
            )
        for part in one.classes:
            values = (part.first_AP, part.other_AP, part.difference, part.low, part.high)
            yield *names, "AP", part.name, *values, None


CSV_FILES = (*TABLES, "comparison.csv")
