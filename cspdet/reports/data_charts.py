"""Report sections about a dataset: classes, box sizes, aspect ratios, boxes per image and positions, for each split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from markupsafe import Markup

from cspdet.datasets.checks.statistics import DataStatistics, Histogram
from cspdet.reports.charts import HistogramSeries, grouped_bar_chart, histogram
from cspdet.reports.components import CellValue, Chart, Charts, Column, LegendEntry, ReportSection, Table
from cspdet.reports.heatmaps import heatmap

MAX_CLASSES_DRAWN = 40  # in the chart; the table has all classes
MAX_SIZES_LISTED = 200
SplitStatistics = Mapping[str, DataStatistics]


def classes_section(statistics: SplitStatistics) -> ReportSection:
    """Build the section with the number of boxes and images of each class, for each split."""
    names: dict[str, None] = {entry.name: None for split in statistics.values() for entry in split.classes}
    by_name = {
        split: {entry.name: entry for entry in split_statistics.classes}
        for split, split_statistics in statistics.items()
    }
    totals = {
        split: max(1, split_statistics.boxes - split_statistics.crowds)
        for split, split_statistics in statistics.items()
    }

    def boxes(split: str, name: str) -> int:
        return by_name[split][name].boxes if name in by_name[split] else 0

    ranked = sorted(names, key=lambda name: -sum(boxes(split, name) for split in statistics))
    percentages = [(name, [100 * boxes(split, name) / totals[split] for split in statistics]) for name in ranked]
    svg = grouped_bar_chart(percentages[:MAX_CLASSES_DRAWN], tuple(statistics), "% of the boxes of the split")
    note = (
        "" if len(ranked) <= MAX_CLASSES_DRAWN else f"The {MAX_CLASSES_DRAWN} most frequent of {len(ranked)} classes."
    )
    columns = [Column("class")]
    for split in statistics:
        columns += [Column(f"{split} boxes", None, True), Column(f"{split} images", None, True)]
    columns += [Column("crowds", None, True)]
    columns += [
        Column(f"{split} median side", 1, True, tooltip="pixels, square root of the area") for split in statistics
    ]
    columns += [Column(f"{split} median aspect", 2, True, tooltip="width / height") for split in statistics]
    rows = []
    for name in ranked:
        entries = [by_name[split].get(name) for split in statistics]
        counts = [value for e in entries for value in ((e.boxes, e.images) if e else (None, None))]
        crowds = sum(e.crowds for e in entries if e)
        medians: list[CellValue] = [e.median_side if e else None for e in entries]
        medians += [e.median_aspect if e else None for e in entries]
        rows.append((name, *counts, crowds, *medians))
    chart = Chart("Boxes of each class", svg, split_legend(statistics, "fill"), note)
    lead = "Rare classes need more training. AP is misleading if the class frequencies of the splits differ."
    return ReportSection("classes", "Classes", lead, (Charts((chart,)), Table("Classes", tuple(columns), tuple(rows))))


def sizes_section(statistics: SplitStatistics) -> ReportSection:
    """Build the section with box sizes, in pixels and relative to the image size."""
    measures = (
        ("In pixels", "side in pixels", {name: split.sides for name, split in statistics.items()}),
        (
            "Relative to the image",
            "side / side of the image",
            {name: split.relative_sides for name, split in statistics.items()},
        ),
    )
    charts = tuple(
        Chart(title, percentage_histogram(histograms, label, logarithmic=True), split_legend(histograms, "line"))
        for title, label, histograms in measures
    )
    tables = [_quantiles_table({label: histograms for _, label, histograms in measures})]
    tables += [bin_table(histograms, f"{label}, by bin") for _, label, histograms in measures]
    lead = "The side is the square root of the area; COCO's small, medium and large are separated by 32 and 96 pixels."
    return ReportSection("sizes", "Box sizes", lead, (Charts(charts), *tables))


def shapes_section(statistics: SplitStatistics) -> ReportSection:
    """Build the section with the aspect ratios of the boxes."""
    aspects = {name: split.aspects for name, split in statistics.items()}
    chart = Chart(
        "Aspect ratios of boxes",
        percentage_histogram(aspects, "width / height", logarithmic=True),
        split_legend(statistics, "line"),
    )
    lead = "1 is a square. Aspect ratios far from those of the anchors are hard to learn."
    tables = (_quantiles_table({"width / height": aspects}), bin_table(aspects, "width / height, by bin"))
    return ReportSection("aspect-ratios", "Aspect ratios", lead, (Charts((chart,)), *tables))


def crowding_section(statistics: SplitStatistics) -> ReportSection:
    """Build the section with the number of boxes per image, and the image sizes."""
    counts = {name: split.boxes_per_image for name, split in statistics.items()}
    widths = {hist.edges[1] - hist.edges[0] for hist in counts.values() if hist.counts}
    # Histograms with different bin widths need separate charts
    groups = [counts] if len(widths) <= 1 else [{name: hist} for name, hist in counts.items()]
    charts = tuple(
        Chart(
            f"Boxes per image{'' if len(groups) == 1 else f', {next(iter(group))}'}",
            percentage_histogram(group, "boxes per image", unit="% of the images", integer_bins=widths == {1.0}),
            split_legend(group, "line"),
        )
        for group in groups
    )
    tables = (_quantiles_table({"boxes per image": counts}), bin_table(counts, "Boxes per image, by bin"))
    blocks = (Charts(charts), *tables, _image_sizes_table(statistics))
    return ReportSection("boxes-per-image", "Boxes per image", "", blocks)


def _image_sizes_table(statistics: SplitStatistics) -> Table:
    columns = (
        *(Column("split"), Column("width", None, True), Column("height", None, True)),
        *(Column("images", None, True), Column("fraction", 3, True, 1.0)),
    )
    rows = tuple(
        (name, size.width, size.height, size.images, size.images / split.images)
        for name, split in statistics.items()
        for size in split.image_sizes[:MAX_SIZES_LISTED]
    )
    distinct = max((len(split.image_sizes) for split in statistics.values()), default=0)
    caption = "Image sizes" if distinct <= MAX_SIZES_LISTED else f"The {MAX_SIZES_LISTED} most frequent image sizes"
    return Table(caption, columns, rows, collapsed=True)


def locations_section(statistics: SplitStatistics) -> ReportSection:
    """Build the section with heatmaps of the box positions in the images."""
    charts = []
    for name, split in statistics.items():
        if split.boxes > split.crowds:
            centers = heatmap(split.centers.tolist(), "left to right", "top to bottom", "centers")
            coverage = heatmap(split.coverage.tolist(), "left to right", "top to bottom", "boxes per image")
            maximum = f"Maximum: {int(split.centers.max())} centers in a cell."
            charts.append(Chart(f"Box centers, {name}", centers, (), maximum))
            maximum = f"Maximum: {split.coverage.max():.2f} boxes per image at one position."
            charts.append(Chart(f"Coverage by boxes, {name}", coverage, (), maximum))
    lead = (
        "A detector also learns positions: objects at positions without boxes in train are detected less well. --json "
        "prints the values of the maps."
    )
    return ReportSection("positions", "Box positions", lead, (Charts(tuple(charts)),))


def split_legend(splits: Iterable[str], style_prefix: str) -> tuple[LegendEntry, ...]:
    """Create the legend of a chart with one series per split.

    The CSS class of the first split is `fill0`; the others have `style_prefix` and their index, such as `line1`.
    """
    return tuple(LegendEntry("fill0" if i == 0 else f"{style_prefix}{i}", name) for i, name in enumerate(splits))


def percentage_histogram(
    histograms: Mapping[str, Histogram],
    label: str,
    *,
    logarithmic: bool = False,
    integer_bins: bool = False,
    unit: str = "% of the boxes",
) -> Markup:
    """Draw the histograms of several splits in one chart, in percent of the total of each split.

    Args:
        histograms: Histograms by split.
        label: Title of the horizontal axis.
        logarithmic: Use a logarithmic horizontal axis.
        integer_bins: Center the bins on integers.
        unit: Title of the vertical axis.
    """
    bars = []
    for i, (name, one) in enumerate(histograms.items()):
        total = max(1, sum(one.counts))
        bars.append(HistogramSeries(name, one.edges, [100 * count / total for count in one.counts], i))
    return histogram(bars, label, unit, logarithmic=logarithmic, integer_bins=integer_bins, digits=1)


def _quantiles_table(measures: Mapping[str, Mapping[str, Histogram]]) -> Table:
    """Create a table of quantiles with one row per measure and split."""
    columns = (
        Column("measure"),
        Column("split"),
        Column("5%", None, True),
        Column("median", None, True),
        Column("95%", None, True),
    )
    rows = tuple(
        (label, name, *one.quantiles)
        for label, histograms in measures.items()
        for name, one in histograms.items()
        if one.quantiles is not None
    )
    return Table("Quantiles", columns, rows)


def bin_table(histograms: Mapping[str, Histogram], caption: str) -> Table:
    """Create a table with the counts of histograms: one row per bin, one column per split."""
    edges: dict[tuple[float, float], dict[str, int]] = {}
    for name, one in histograms.items():
        for low, high, count in zip(one.edges, one.edges[1:], one.counts, strict=False):
            edges.setdefault((low, high), {})[name] = count
    columns = (
        Column("from", None, True),
        Column("below", None, True),
        *(Column(name, None, True) for name in histograms),
    )
    rows = tuple((*edge, *(counts.get(name, 0) for name in histograms)) for edge, counts in sorted(edges.items()))
    return Table(caption, columns, rows, collapsed=True)
