"""Report section about a dataset at the network input: box sizes, and how well the anchors fit the boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from cspdet.config.input import InputConfig
from cspdet.datasets.checks.statistics import BINS_PER_OCTAVE, Histogram
from cspdet.datasets.detection.anchors import AnchorFit, box_sizes_at_input, evaluate_anchors
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.models.head import Anchors
from cspdet.reports.charts import bar_chart
from cspdet.reports.components import CellValue, Chart, Charts, Column, ReportSection, Stat, Stats, Table
from cspdet.reports.data_charts import bin_table, percentage_histogram, split_legend


@dataclass(frozen=True)
class NetworkInput:
    """Input config and anchors of a detector."""

    name: str  # name of the config
    input: InputConfig
    match_iou: float | None  # training assigns boxes also to anchors above this IoU; None: only to the best
    anchors_wh: tuple[tuple[float, float], ...]  # K, in input pixels
    strides: tuple[int, ...]  # (K,) stride of the level of each anchor

    @classmethod
    def from_anchors(
        cls, name: str, input_config: InputConfig, match_iou: float | None, anchors: Anchors
    ) -> NetworkInput:
        """Create a NetworkInput from the anchors of a detector.

        Args:
            name: Name of the config.
            input_config: Section `input` of the config.
            match_iou: `train.assigner.match_iou` of the config; None if its assigner has no such threshold.
            anchors: Anchors of the head.
        """
        levels = [[(round(w, 4), round(h, 4)) for w, h in level] for level in anchors.wh.tolist()]
        strides = tuple(stride for stride, level in zip(anchors.strides, levels, strict=True) for _ in level)
        return cls(name, input_config, match_iou, tuple(wh for level in levels for wh in level), strides)


@dataclass(frozen=True)
class InputFit:
    """Box sizes of each split in input pixels, and the fit of the anchors to these boxes."""

    network: NetworkInput
    sides: Mapping[str, Histogram]  # by split: sqrt(width * height) in input pixels
    fits: Mapping[str, AnchorFit]  # by split; both omit splits without boxes

    def to_json(self) -> dict[str, Any]:
        """Return the values as a JSON-compatible dict, together with the network input to which they refer."""
        network = self.network
        return {
            "config": network.name,
            "size": list(network.input.size),
            "resize": network.input.resize,
            "match_iou": network.match_iou,
            "anchors": network.anchors_wh,
            "strides": network.strides,
            "splits": {name: {"sides": self.sides[name].to_json(), **fit.to_json()} for name, fit in self.fits.items()},
        }


def fit_to_input(network: NetworkInput, sets: Mapping[str, CocoDataset]) -> InputFit:
    """Compute the box sizes in input pixels and the anchor fit of each split; splits without boxes are omitted."""
    sides, fits = {}, {}
    for split, coco in sets.items():
        box_wh = box_sizes_at_input(coco, network.input)
        if len(box_wh):
            sides[split] = log2_histogram(np.sqrt(box_wh.prod(axis=1)))
            fits[split] = evaluate_anchors(box_wh, np.array(network.anchors_wh), network.match_iou)
    return InputFit(network, sides, fits)


def log2_histogram(values: np.ndarray) -> Histogram:
    """Compute a histogram of (N,) positive values, N > 0; its bin edges are powers of sqrt(2)."""
    bin_index = np.floor(BINS_PER_OCTAVE * np.log2(values)).astype(np.int64)
    first = int(bin_index.min())
    counts = np.bincount(bin_index - first)
    edges = 2.0 ** (np.arange(first, first + len(counts) + 1) / BINS_PER_OCTAVE)
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), (low, median, high))


def input_section(fit: InputFit) -> ReportSection:
    """Build the section with box sizes in input pixels and the fit of the anchors."""
    height, width = fit.network.input.size
    resize_text = {"letterbox": "letterboxed", "stretch": "stretched"}[fit.network.input.resize]
    stats = [Stat("input", f"{height}x{width}", f"height x width, {resize_text}")]
    charts = []
    if fit.sides:
        svg = percentage_histogram(fit.sides, "side in input pixels", logarithmic=True)
        note = "Boxes with a side below about 8 pixels are rarely detected; a larger input enlarges them."
        charts.append(Chart("Box sizes at the input", svg, split_legend(fit.sides, "line"), note))
        split, first = next(iter(fit.fits.items()))
        stats += _anchor_stats(split, first, fit.network.match_iou)
        charts.append(Chart(f"Best anchors of the boxes of {split}", _anchor_chart(fit, first)))
    lead = (
        f"Boxes at the input of {fit.network.name}. Best possible recall is the fraction of boxes whose best anchor "
        "has an IoU above the threshold, by width and height only. `cspdet anchors` computes anchors that fit better."
    )
    tables = (_fit_table(fit), _anchor_table(fit), bin_table(fit.sides, "side in input pixels, by bin"))
    return ReportSection("input", "Network input", lead, (Stats(tuple(stats)), Charts(tuple(charts)), *tables))


def _anchor_stats(split: str, fit: AnchorFit, match_iou: float | None) -> list[Stat]:
    stats = [Stat("best possible recall", f"{fit.recall50:.3f}", f"of {split}, above an IoU of .50")]
    if fit.recall is not None:
        stats.append(Stat("in training", f"{fit.recall:.3f}", f"above an IoU of {match_iou:g} (match_iou)"))
    return [*stats, Stat("mean best IoU", f"{fit.mean_iou:.3f}", f"of the boxes of {split}")]


def _anchor_chart(fit: InputFit, first: AnchorFit) -> Markup:
    rows = [
        (f"{w:g}x{h:g}, stride {stride}", 100 * fraction, f"{w:g}x{h:g}: {fraction:.1%} of the boxes")
        for (w, h), stride, fraction in zip(
            fit.network.anchors_wh, fit.network.strides, first.best_match_fraction, strict=True
        )
    ]
    return bar_chart(rows, "% of the boxes with this best anchor", digits=1)


def _fit_table(fit: InputFit) -> Table:
    columns = (
        Column("split"),
        Column("recall above .50", 3, True, 1.0),
        Column("recall in training", 3, True, 1.0, tooltip="above train.assigner.match_iou, if set"),
        Column("mean best IoU", 3, True, 1.0),
        Column("anchors per box", 2, True, tooltip="mean number of anchors assigned to a box in training"),
    )
    rows = tuple(
        (split, one.recall50, one.recall, one.mean_iou, one.anchors_per_box) for split, one in fit.fits.items()
    )
    return Table("Anchor fit", columns, rows)


def _anchor_table(fit: InputFit) -> Table:
    columns = (
        Column("anchor"),
        *(Column("width", None, True), Column("height", None, True), Column("stride", None, True)),
        *(Column(f"fraction of {split}", 3, True, 1.0) for split in fit.fits),
    )
    rows: tuple[tuple[CellValue, ...], ...] = tuple(
        (str(i + 1), w, h, stride, *(one.best_match_fraction[i] for one in fit.fits.values()))
        for i, ((w, h), stride) in enumerate(zip(fit.network.anchors_wh, fit.network.strides, strict=True))
    )
    return Table("Anchors", columns, rows, collapsed=True)
