"""The page of `analyze`: why AP is what it is, from the number down to the pictures, and runs side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cspdet.analysis.structures import Analysis, Comparison
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.reports.analysis_classes import classes_section, confusion_section, curves_section
from cspdet.reports.analysis_errors import calibration_section, errors_section, groups_section
from cspdet.reports.analysis_pictures import label_issues_section, worst_section
from cspdet.reports.comparison import comparison_section
from cspdet.reports.components import Column, ReportSection, Stat, Stats, Table
from cspdet.reports.html import write_page
from cspdet.reports.thumbnails import MAX_EMBEDDED_BYTES, ThumbnailEmbedder

MIN_GALLERY_IMAGES = 4  # in each gallery when several runs share the room
METRIC_DESCRIPTIONS = {
    "AP": "precision averaged over recall, classes and the overlaps .50 to .95",
    "AP50": "the same at an overlap of .50: roughly in place is enough",
    "AP75": "at .75: boxes have to be tight",
    "APs": "boxes below 32x32 pixels",
    "APm": "boxes from 32x32 to 96x96 pixels",
    "APl": "boxes above 96x96 pixels",
    "AR1": "recall with one detection a picture and class",
    "AR10": "recall with 10",
    "AR100": "recall with 100",
    "ARs": "recall of small boxes with 100",
    "ARm": "recall of medium boxes with 100",
    "ARl": "recall of large boxes with 100",
}


def write_analysis_page(
    path: Path, analyses: Sequence[Analysis], comparison: Comparison | None, coco: CocoDataset, *, gallery: int
) -> None:
    """Write one HTML file about runs on the split `coco`; `gallery` pictures at most in each of its galleries.

    Pictures that cannot be read are counted on the page.

    Raises:
        UserError: the file cannot be written.
    """
    names = tuple(analysis.name for analysis in analyses)
    title = names[0] if len(names) == 1 else " / ".join(names) if len(names) < 4 else f"{len(names)} runs"
    data = f"{len(coco)} pictures of {coco.files.annotations.name}"
    write_page(
        path,
        f"Analysis of {title}",
        f"{data}, judged by {analyses[0].evaluator}",
        analysis_sections(analyses, comparison, coco, gallery),
    )


def analysis_sections(
    analyses: Sequence[Analysis], comparison: Comparison | None, coco: CocoDataset, gallery: int
) -> list[ReportSection]:
    """The sections of the page, those of each run under its name where there are several."""
    sections = []
    if comparison is not None:
        sections.append(comparison_section(analyses, comparison))
    shared = gallery if len(analyses) == 1 else min(gallery, max(MIN_GALLERY_IMAGES, gallery // len(analyses)))
    for run_number, analysis in enumerate(analyses, start=1):
        run_sections = _run_sections(analysis, coco, shared, MAX_EMBEDDED_BYTES // len(analyses))
        if len(analyses) > 1:
            run_sections = [
                dataclasses.replace(section, anchor=f"run{run_number}-{section.anchor}", group=analysis.name)
                for section in run_sections
            ]
        sections += run_sections
    return sections


def _run_sections(analysis: Analysis, coco: CocoDataset, gallery: int, max_bytes: int) -> list[ReportSection]:
    worst = worst_section(analysis, coco, gallery, ThumbnailEmbedder(max_bytes * 2 // 3))
    label_issues = label_issues_section(analysis, coco, gallery, ThumbnailEmbedder(max_bytes // 3))
    return [
        _metrics_section(analysis),
        errors_section(analysis),
        classes_section(analysis),
        curves_section(analysis),
        confusion_section(analysis),
        groups_section(analysis),
        calibration_section(analysis),
        worst,
        label_issues,
    ]


def _metrics_section(analysis: Analysis) -> ReportSection:
    at = analysis.at_threshold
    chosen = "where F1 is best" if analysis.threshold_is_best else "as told"
    facts = [
        Stat(name, format_fraction(analysis.stats.get(name)), METRIC_DESCRIPTIONS[name])
        for name in ("AP", "AP50", "AP75", "AR100")
    ]
    facts += [
        Stat("F1", format_fraction(at.f1), f"at a score of {analysis.threshold:.3f}, {chosen}"),
        Stat("precision", format_fraction(at.precision), f"{at.correct} of {at.kept} kept detections are correct"),
        Stat("recall", format_fraction(at.recall), f"{at.correct} of {analysis.num_gt} boxes are found"),
        Stat("boxes", f"{analysis.num_gt}", f"in {analysis.images} pictures, and {analysis.crowds} crowds"),
    ]
    columns = (Column("number"), Column("value", 4, True, 1.0), Column("meaning", prose=True))
    rows = tuple((name, value, METRIC_DESCRIPTIONS.get(name, "")) for name, value in analysis.stats.items())
    lead = f"{analysis.detections} detections of {analysis.source}, on {analysis.images} pictures."
    return ReportSection(
        "numbers",
        "The numbers",
        lead,
        (Stats(tuple(facts)), Table("COCO's twelve numbers", columns, rows, collapsed=True)),
    )


def format_fraction(value: float | None) -> str:
    """A number in [0, 1] with three digits."""
    return "–" if value is None else f"{value:.3f}"
