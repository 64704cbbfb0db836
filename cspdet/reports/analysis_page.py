"""Report page of `analyze`: metrics, error analysis, image galleries, and the comparison of runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cspdet.analysis.structures import Analysis, Comparison
from cspdet.analysis.summary import undetected_classes_line
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.reports.analysis_classes import classes_section, confusion_section, curves_section
from cspdet.reports.analysis_errors import calibration_section, errors_section, groups_section
from cspdet.reports.analysis_explorer import explorer_section
from cspdet.reports.analysis_images import label_issues_section
from cspdet.reports.comparison import comparison_section
from cspdet.reports.comparison_images import changed_images_sections
from cspdet.reports.components import Column, Messages, ReportSection, Stat, Stats, Table
from cspdet.reports.facts import RunFacts, page_facts
from cspdet.reports.html import write_page
from cspdet.reports.thumbnails import MAX_EMBEDDED_BYTES, ThumbnailEmbedder

MIN_GALLERY_IMAGES = 4  # per gallery, if several runs share the page
METRIC_DESCRIPTIONS = {
    "AP": "average precision, mean over classes and IoU .50 to .95",
    "AP50": "AP at IoU .50",
    "AP75": "AP at IoU .75",
    "APs": "AP of boxes below 32x32 pixels",
    "APm": "AP of boxes from 32x32 to 96x96 pixels",
    "APl": "AP of boxes above 96x96 pixels",
    "AR1": "average recall with 1 detection per image and class",
    "AR10": "average recall with 10 detections",
    "AR100": "average recall with 100 detections",
    "ARs": "AR100 of small boxes",
    "ARm": "AR100 of medium boxes",
    "ARl": "AR100 of large boxes",
}


def write_analysis_page(
    path: Path,
    analyses: Sequence[Analysis],
    comparison: Comparison | None,
    coco: CocoDataset,
    *,
    gallery: int,
    run_facts: Sequence[RunFacts] = (),
) -> None:
    """Write the report of one or several runs as one HTML file.

    Images that cannot be read are omitted; the page shows their number.

    Args:
        path: The HTML file to write.
        analyses: One analysis per run.
        comparison: The comparison of the runs; None for one run.
        coco: The split on which the runs were evaluated.
        gallery: Maximum number of images per gallery.
        run_facts: Origin of the detections of each run; empty: unknown.

    Raises:
        UserError: The file cannot be written.
    """
    names = tuple(analysis.name for analysis in analyses)
    title = names[0] if len(names) == 1 else " / ".join(names) if len(names) < 4 else f"{len(names)} runs"
    data = f"{len(coco)} images of {coco.files.annotations.name}"
    sections = analysis_sections(analyses, comparison, coco, gallery)
    facts = run_facts[0].as_facts() if len(run_facts) == 1 else ()
    if len(run_facts) > 1:
        sections.insert(0, _origins_section(names, run_facts))
    subtitle = f"{data}, evaluated with {analyses[0].evaluator}"
    write_page(path, f"Analysis of {title}", subtitle, sections, (*facts, *page_facts()))


def analysis_sections(
    analyses: Sequence[Analysis], comparison: Comparison | None, coco: CocoDataset, gallery: int
) -> list[ReportSection]:
    """Build the sections of the page. For several runs, the sections of each run are grouped under its name."""
    if len(analyses) == 1:
        return _run_sections(analyses[0], coco, gallery, MAX_EMBEDDED_BYTES, "run1")
    sections, max_bytes = list[ReportSection](), MAX_EMBEDDED_BYTES // (len(analyses) + 1)
    per_run = min(gallery, max(MIN_GALLERY_IMAGES, gallery // len(analyses)))
    if comparison is not None:
        sections.append(comparison_section(analyses, comparison))
        sections += changed_images_sections(comparison, coco, per_run, ThumbnailEmbedder(max_bytes))
    for run_number, analysis in enumerate(analyses, start=1):
        key = f"run{run_number}"
        sections += [
            dataclasses.replace(section, anchor=f"{key}-{section.anchor}", group=analysis.name)
            for section in _run_sections(analysis, coco, per_run, max_bytes, key)
        ]
    return sections


def _run_sections(analysis: Analysis, coco: CocoDataset, gallery: int, max_bytes: int, key: str) -> list[ReportSection]:
    explorer = explorer_section(analysis, coco, gallery, ThumbnailEmbedder(max_bytes * 2 // 3), key)
    label_issues = label_issues_section(analysis, coco, gallery, ThumbnailEmbedder(max_bytes // 3))
    return [
        _metrics_section(analysis),
        errors_section(analysis),
        explorer,
        classes_section(analysis),
        confusion_section(analysis),
        curves_section(analysis),
        groups_section(analysis),
        calibration_section(analysis),
        label_issues,
    ]


def _origins_section(names: Sequence[str], run_facts: Sequence[RunFacts]) -> ReportSection:
    """Build the table with the origin of each run: model, network, input size, config and date."""
    columns = tuple(Column(name) for name in ("run", "model", "network", "input size", "config", "detections of"))
    rows = tuple(
        (name, *(value or None for value in dataclasses.astuple(facts)))
        for name, facts in zip(names, run_facts, strict=True)
    )
    return ReportSection("runs", "Runs", "", (Table("Models", columns, rows),))


def _metrics_section(analysis: Analysis) -> ReportSection:
    at = analysis.at_threshold
    source = "the threshold with the best F1" if analysis.threshold_is_best else "as requested"
    stats = [
        Stat(name, format_fraction(analysis.stats.get(name)), METRIC_DESCRIPTIONS[name])
        for name in ("AP", "AP50", "AP75", "AR100")
    ]
    stats += [
        Stat("F1", format_fraction(at.f1), f"at a score of {analysis.threshold:.3f}, {source}"),
        Stat("precision", format_fraction(at.precision), f"{at.correct} of {at.kept} kept detections are correct"),
        Stat("recall", format_fraction(at.recall), f"{at.correct} of {analysis.num_gt} boxes are detected"),
        Stat("boxes", f"{analysis.num_gt}", f"in {analysis.images} images, and {analysis.crowds} crowds"),
    ]
    columns = (Column("metric"), Column("value", 4, True, 1.0), Column("definition", prose=True))
    rows = tuple((name, value, METRIC_DESCRIPTIONS.get(name, "")) for name, value in analysis.stats.items())
    lead = f"{analysis.detections} detections of {analysis.source}, on {analysis.images} images."
    return ReportSection(
        "metrics",
        "Metrics",
        lead,
        (*_undetected_classes(analysis), Stats(tuple(stats)), Table("COCO metrics", columns, rows, collapsed=True)),
    )


def _undetected_classes(analysis: Analysis) -> tuple[Messages, ...]:
    line = undetected_classes_line(analysis)
    return () if line is None else (Messages("error", (line,)),)


def format_fraction(value: float | None) -> str:
    """Format a fraction with three decimals; None becomes a dash."""
    return "–" if value is None else f"{value:.3f}"
