"""Report page of a training run: metrics, curves, sample images, a short error analysis, the data and the config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cspdet.analysis.structures import Analysis
from cspdet.datasets.checks.statistics import DataStatistics
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.reports.analysis_classes import classes_section, confusion_section
from cspdet.reports.analysis_errors import errors_section
from cspdet.reports.analysis_explorer import explorer_section
from cspdet.reports.components import (
    Card,
    CellValue,
    Column,
    Gallery,
    Messages,
    Preformatted,
    ReportSection,
    Stat,
    Stats,
    Table,
)
from cspdet.reports.data_charts import classes_section as data_classes_section
from cspdet.reports.data_page import splits_section
from cspdet.reports.facts import Facts, page_facts
from cspdet.reports.html import write_page
from cspdet.reports.run_charts import curves_section
from cspdet.reports.run_metrics import RunMetrics
from cspdet.reports.thumbnails import MAX_EMBEDDED_BYTES, ThumbnailEmbedder

REPORT_FILE = "report.html"
NUM_WORST_IMAGES = 12
SAMPLE_SIDE = 1600  # pixels of the longer side of a sample image
SAMPLES = {
    "train_batch.jpg": "Input images of the first training batch, after augmentation",
    "val_detections.jpg": "Validation images with the detections of the last evaluation",
    "val_predictions.jpg": "Validation images with the predicted classes of the last evaluation",
}
METRIC_NOTES = {
    "AP": "mean over classes and IoU .50 to .95",
    "AP50": "AP at IoU .50",
    "AP75": "AP at IoU .75",
    "AR100": "recall, mean over IoU .50 to .95",
    "top1": "accuracy",
    "top5": "accuracy among the 5 highest scores",
}


@dataclass(frozen=True)
class RunReport:
    """Content of the report of a training run.

    Attributes:
        run_dir: The run folder, with the sample images.
        facts: Labels and values in the head of the page.
        config: Text of `config.yaml`.
        epochs: Number of epochs of the config.
        is_complete: Whether the run reached its end; a stopped run has no analysis.
        metrics: Values of `metrics.jsonl`; None if the file is missing.
        analysis: Analysis of the best weights; None: no analysis.
        val_set: The val split of the analysis.
        statistics: Statistics of the boxes of each split of a detector's data.
        image_counts: Number of images of each class, for each split of a classifier's data.
    """

    run_dir: Path
    facts: Facts
    config: str
    epochs: int
    is_complete: bool
    metrics: RunMetrics | None
    analysis: Analysis | None = None
    val_set: CocoDataset | None = None
    statistics: Mapping[str, DataStatistics] = field(default_factory=dict)
    image_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def write_run_report(path: Path, report: RunReport) -> None:
    """Write the report of a training run as one HTML file.

    Raises:
        UserError: The file cannot be written.
    """
    sections = [_results_section(report)]
    if report.metrics is not None:
        sections.append(curves_section(report.metrics))
    sections += _samples_sections(report.run_dir)
    if report.analysis is not None and report.val_set is not None:
        embedder = ThumbnailEmbedder(MAX_EMBEDDED_BYTES // 2)
        sections += [
            errors_section(report.analysis),
            explorer_section(report.analysis, report.val_set, NUM_WORST_IMAGES, embedder, "best"),
            classes_section(report.analysis),
            confusion_section(report.analysis),
        ]
    sections += _data_sections(report)
    sections.append(ReportSection("config", "Config", "", (Preformatted("config.yaml", report.config),)))
    name = report.run_dir.resolve().name
    write_page(path, f"Training of {name}", f"Run folder {report.run_dir}", sections, (*report.facts, *page_facts()))


def _results_section(report: RunReport) -> ReportSection:
    """Build the section with the metrics of the best epoch, and the progress of the run."""
    lines = () if report.metrics is None else report.metrics.lines
    trained = int(lines[-1]["epoch"]) if lines else 0
    main_metric = "top1" if report.image_counts else "AP"
    best = None if report.metrics is None else report.metrics.best(main_metric)
    known = {name for name in METRIC_NOTES if best and math.isfinite(best.get(name, math.nan))}
    stats = [Stat(name, f"{best[name]:.3f}", note) for name, note in METRIC_NOTES.items() if best and name in known]
    if best:
        stats.append(
            Stat("best epoch", f"{best['epoch']:.0f}", f"with the highest {main_metric}; its weights are best.pt")
        )
    note = "complete" if trained >= report.epochs else "resume with: cspdet train --resume"
    stats.append(Stat("epochs", f"{trained} of {report.epochs}", note))
    if lines and "images_per_second" in lines[-1]:
        stats.append(Stat("speed", f"{lines[-1]['images_per_second']:.1f}", "images per second, last epoch"))
    messages = () if report.is_complete else (Messages("note", ("The run was stopped before its end.",)),)
    hint = f"All curves, label issues and calibration: cspdet analyze {report.run_dir}"
    hints = () if report.analysis is None else (Messages("note", (hint,)),)
    return ReportSection("results", "Results", "", (*messages, Stats(tuple(stats)), *hints))


def _samples_sections(run_dir: Path) -> list[ReportSection]:
    """Build the section with the sample images that the trainer saved. If there are none, return an empty list."""
    embedder, cards = ThumbnailEmbedder(MAX_EMBEDDED_BYTES // 3), []
    for name, title in SAMPLES.items():
        if (run_dir / name).is_file():
            image = embedder.add(run_dir / name, (), title, long_side=SAMPLE_SIDE)
            cards += [] if image is None else [Card((image,), name, (title,))]
    if not cards:
        return []
    gallery = Gallery("Sample images", tuple(cards), note="Select an image to enlarge it.", large=True)
    return [ReportSection("samples", "Samples", "", (gallery,))]


def _data_sections(report: RunReport) -> list[ReportSection]:
    """Build the sections about the data: the splits, and the boxes or images of each class."""
    if report.statistics:
        sections = [replace(splits_section(report.statistics), anchor="data", title="Data")]
        if any(split.boxes > split.crowds for split in report.statistics.values()):
            of_classes = data_classes_section(report.statistics)
            sections.append(replace(of_classes, anchor="data-classes", title="Data by class"))
        return sections
    splits = list(report.image_counts)
    names = dict.fromkeys(name for counts in report.image_counts.values() for name in counts)
    rows: list[tuple[CellValue, ...]] = [
        (name, *(report.image_counts[split].get(name, 0) for split in splits)) for name in names
    ]
    columns = (Column("class"), *(Column(f"{split} images", None, True) for split in splits))
    stats = [Stat(split, f"{sum(report.image_counts[split].values())}", "images") for split in splits]
    stats.append(Stat("classes", str(len(names))))
    return [
        ReportSection("data", "Data", "", (Stats(tuple(stats)), Table("Images of each class", columns, tuple(rows))))
    ]
