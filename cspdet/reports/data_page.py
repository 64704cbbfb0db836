"""The page of `check-data --report`: what is wrong with a data set, what it is made of, and how it looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cspdet.datasets.checks.near_duplicates import TwinReport
from cspdet.datasets.checks.statistics import DataStatistics
from cspdet.datasets.checks.validate import Report
from cspdet.datasets.formats.coco import CocoSet
from cspdet.reports.components import Block, Column, Fact, Facts, Findings, Section, Table
from cspdet.reports.data_charts import (
    classes_section,
    crowding_section,
    places_section,
    shapes_section,
    sizes_section,
)
from cspdet.reports.data_input import InputFit, input_section
from cspdet.reports.data_pictures import samples_section, twins_section
from cspdet.reports.html import write_page
from cspdet.reports.thumbnails import BUDGET, Album

SPLIT_COLUMNS = (
    Column("split"),
    Column("pictures", None, True),
    Column("without boxes", None, True),
    Column("boxes", None, True),
    Column("crowds", None, True, meaning="boxes around many objects at once; neither trained on nor judged"),
    Column("boxes a picture", 2, True),
    Column("classes with boxes", None, True),
    Column("small", None, True, meaning="boxes below 32x32 pixels"),
    Column("medium", None, True),
    Column("large", None, True, meaning="boxes above 96x96 pixels"),
)


@dataclass(frozen=True)
class DataFigures:
    """What was found out about a data set beside what is wrong with it."""

    statistics: Mapping[str, DataStatistics]  # by the name of the split
    twins: TwinReport | None = None  # None: not looked for
    fit: InputFit | None = None  # None: no config was named


def write_data_page(
    path: Path, name: str, report: Report, figures: DataFigures, sets: Mapping[str, CocoSet], *, samples: int
) -> None:
    """Write one HTML file about the data set called `name`, with up to `samples` pictures of each class.

    Splits whose annotations cannot be read are in `report` alone. Pictures that cannot be read are counted.

    Raises:
        UserError: the file cannot be written.
    """
    pictures = sum(split.pictures for split in figures.statistics.values())
    boxes = sum(split.boxes for split in figures.statistics.values())
    subtitle = f"{pictures} pictures and {boxes} boxes; splits: {', '.join(report.splits)}"
    write_page(path, f"Data set {name}", subtitle, data_sections(report, figures, sets, samples))


def data_sections(report: Report, figures: DataFigures, sets: Mapping[str, CocoSet], samples: int) -> list[Section]:
    """The sections of the page; those about boxes only when there are any."""
    statistics = figures.statistics
    sections = [_findings_section(report)]
    if statistics:
        sections.append(_splits_section(statistics))
    if any(split.boxes > split.crowds for split in statistics.values()):
        sections += [
            classes_section(statistics),
            sizes_section(statistics),
            shapes_section(statistics),
            crowding_section(statistics),
            places_section(statistics),
        ]
    if figures.fit is not None:
        sections.append(input_section(figures.fit))
    if figures.twins is not None:
        sections.append(twins_section(figures.twins, Album(BUDGET // 3)))
    if samples and sets:
        sections.append(samples_section(sets, samples, Album(BUDGET * 2 // 3)))
    return sections


def _findings_section(report: Report) -> Section:
    blocks: list[Block] = []
    if report.errors:
        blocks.append(Findings("error", tuple(report.errors)))
        lead = f"{len(report.errors)} errors, with which training or AP would be wrong, and {len(report.notes)} notes."
    else:
        blocks.append(Findings("good", ("No errors: this data can be trained on.",)))
        lead = f"No errors, {len(report.notes)} notes."
    if report.notes:
        blocks.append(Findings("note", tuple(report.notes)))
    return Section("findings", "What is wrong", lead, tuple(blocks))


def _splits_section(statistics: Mapping[str, DataStatistics]) -> Section:
    rows = tuple(
        (
            *(name, split.pictures, split.empty_pictures, split.boxes, split.crowds),
            *(split.boxes / split.pictures if split.pictures else None, sum(c.boxes > 0 for c in split.classes)),
            *(split.coco_sizes[size] for size in ("small", "medium", "large")),
        )
        for name, split in statistics.items()
    )
    facts = [
        Fact(name, f"{split.pictures}", f"pictures with {split.boxes} boxes") for name, split in statistics.items()
    ]
    facts.append(Fact("classes", str(max(len(split.classes) for split in statistics.values()))))
    return Section("splits", "Splits", "", (Facts(tuple(facts)), Table("Splits", SPLIT_COLUMNS, rows)))
