"""Report page of `check-data --report`: problems, statistics and sample images of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cspdet.datasets.checks.near_duplicates import DuplicateReport
from cspdet.datasets.checks.statistics import DataStatistics
from cspdet.datasets.checks.validate import ValidationReport
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.io.names import count
from cspdet.reports.components import Block, Column, Messages, ReportSection, Stat, Stats, Table
from cspdet.reports.data_charts import (
    classes_section,
    crowding_section,
    locations_section,
    shapes_section,
    sizes_section,
)
from cspdet.reports.data_images import near_duplicates_section, samples_section
from cspdet.reports.data_input import InputFit, input_section
from cspdet.reports.html import write_page
from cspdet.reports.thumbnails import MAX_EMBEDDED_BYTES, ThumbnailEmbedder

SPLIT_COLUMNS = (
    Column("split"),
    Column("images", None, True),
    Column("without boxes", None, True),
    Column("boxes", None, True),
    Column("crowds", None, True, tooltip="regions of many objects; ignored in training and evaluation"),
    Column("boxes per image", 2, True),
    Column("classes with boxes", None, True),
    Column("small", None, True, tooltip="boxes below 32x32 pixels"),
    Column("medium", None, True),
    Column("large", None, True, tooltip="boxes above 96x96 pixels"),
)


@dataclass(frozen=True)
class DatasetReport:
    """Statistics of a dataset, near-duplicate images, and the fit of the anchors."""

    statistics: Mapping[str, DataStatistics]  # by the name of the split
    near_duplicates: DuplicateReport | None = None  # None: not searched
    input_fit: InputFit | None = None  # None: no config given


def write_data_page(
    path: Path,
    name: str,
    validation_report: ValidationReport,
    dataset_report: DatasetReport,
    sets: Mapping[str, CocoDataset],
    *,
    samples: int,
) -> None:
    """Write the report of a dataset as one HTML file.

    Images that cannot be read are omitted; the page shows their number.

    Args:
        path: The HTML file to write.
        name: Name of the dataset, for the title.
        validation_report: Errors and warnings of the checks.
        dataset_report: Statistics and near-duplicates.
        sets: The readable splits by name.
        samples: Maximum number of sample images per class.

    Raises:
        UserError: The file cannot be written.
    """
    num_images = sum(split.images for split in dataset_report.statistics.values())
    boxes = sum(split.boxes for split in dataset_report.statistics.values())
    subtitle = f"{num_images} images and {boxes} boxes; splits: {', '.join(validation_report.splits)}"
    write_page(path, f"Dataset {name}", subtitle, data_sections(validation_report, dataset_report, sets, samples))


def data_sections(
    validation_report: ValidationReport, dataset_report: DatasetReport, sets: Mapping[str, CocoDataset], samples: int
) -> list[ReportSection]:
    """Build the sections of the page; sections about boxes are omitted if the dataset has no boxes."""
    statistics = dataset_report.statistics
    sections = [_issues_section(validation_report)]
    if statistics:
        sections.append(splits_section(statistics))
    if any(split.boxes > split.crowds for split in statistics.values()):
        sections += [
            classes_section(statistics),
            sizes_section(statistics),
            shapes_section(statistics),
            crowding_section(statistics),
            locations_section(statistics),
        ]
    if dataset_report.input_fit is not None:
        sections.append(input_section(dataset_report.input_fit))
    if dataset_report.near_duplicates is not None:
        embedder = ThumbnailEmbedder(MAX_EMBEDDED_BYTES // 3)
        sections.append(near_duplicates_section(dataset_report.near_duplicates, embedder))
    if samples and sets:
        sections.append(samples_section(sets, samples, ThumbnailEmbedder(MAX_EMBEDDED_BYTES * 2 // 3)))
    return sections


def _issues_section(validation_report: ValidationReport) -> ReportSection:
    """Build the section with errors and notes. If there are errors, its title is `Problems`."""
    errors, notes = validation_report.errors, validation_report.warnings
    blocks: list[Block] = []
    if errors:
        title = "Problems"
        lead = f"{count(len(errors), 'error')}, which make training or AP wrong, and {count(len(notes), 'note')}."
        blocks.append(Messages("error", tuple(errors)))
    else:
        title, lead = ("Notes", f"No errors, {count(len(notes), 'note')}.") if notes else ("Checks", "")
        blocks.append(Messages("good", ("No errors: this dataset can be used for training.",)))
    if notes:
        blocks.append(Messages("note", tuple(notes)))
    return ReportSection("issues", title, lead, tuple(blocks))


def splits_section(statistics: Mapping[str, DataStatistics]) -> ReportSection:
    """Build the section with the numbers of images, boxes and classes of each split."""
    rows = tuple(
        (
            *(name, split.images, split.empty_images, split.boxes, split.crowds),
            *(split.boxes / split.images if split.images else None, sum(c.boxes > 0 for c in split.classes)),
            *(split.coco_sizes[size] for size in ("small", "medium", "large")),
        )
        for name, split in statistics.items()
    )
    stats = [Stat(name, f"{split.images}", f"images with {split.boxes} boxes") for name, split in statistics.items()]
    stats.append(Stat("classes", str(max(len(split.classes) for split in statistics.values()))))
    return ReportSection("splits", "Splits", "", (Stats(tuple(stats)), Table("Splits", SPLIT_COLUMNS, rows)))
