"""A data set as a network sees it: sizes of boxes at its input, and how well its anchors fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from cspdet.checkpoints.building import build_detector
from cspdet.config.input import InputConfig
from cspdet.datasets.checks.statistics import BINS_PER_OCTAVE, Histogram
from cspdet.datasets.detection.anchors import AnchorFit, box_sizes_at_input, evaluate_anchors
from cspdet.datasets.formats.coco import CocoDataset
from cspdet.recipe import load_recipe
from cspdet.reports.charts import bar_chart
from cspdet.reports.components import CellValue, Chart, Charts, Column, ReportSection, Stat, Stats, Table
from cspdet.reports.data_charts import bin_table, percentage_histogram, split_legend


@dataclass(frozen=True)
class NetworkInput:
    """What of a detector's config the boxes of a data set have to fit."""

    name: str  # of the config
    input: InputConfig
    match_iou: float | None  # from which training gives a box to an anchor that is not its best
    anchors_wh: tuple[tuple[float, float], ...]  # K, in input pixels
    strides: tuple[int, ...]  # (K,) of the scale that each anchor belongs to


@dataclass(frozen=True)
class InputFit:
    """The boxes of each split at the input of a network, and its anchors on them."""

    network: NetworkInput
    sides: Mapping[str, Histogram]  # by split: sqrt(width * height) in input pixels
    fits: Mapping[str, AnchorFit]  # by split; splits without boxes are left out of both

    def to_json(self) -> dict[str, Any]:
        """The figures, and what they were measured with."""
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


def read_network_input(config: Path, overrides: Sequence[str]) -> NetworkInput:
    """The input and the anchors of a detector's config.

    Raises:
        ConfigError: it is no config of a detector.
    """
    recipe = load_recipe(config, list(overrides), task="detection")
    anchors = build_detector(recipe, 1, str(config), pretrained=False).anchors
    levels = [[(round(w, 4), round(h, 4)) for w, h in level] for level in anchors.wh.tolist()]
    strides = tuple(stride for stride, level in zip(anchors.strides, levels, strict=True) for _ in level)
    anchors_wh = tuple(wh for level in levels for wh in level)
    match_iou = getattr(recipe.train.assigner, "match_iou", None)
    return NetworkInput(config.stem, recipe.input, match_iou, anchors_wh, strides)


def fit_to_input(network: NetworkInput, sets: Mapping[str, CocoDataset]) -> InputFit:
    """Measure the boxes of the splits at the input of a network."""
    sides, fits = {}, {}
    for split, coco in sets.items():
        box_wh = box_sizes_at_input(coco, network.input)
        if len(box_wh):
            sides[split] = log2_histogram(np.sqrt(box_wh.prod(axis=1)))
            fits[split] = evaluate_anchors(box_wh, np.array(network.anchors_wh), network.match_iou)
    return InputFit(network, sides, fits)


def log2_histogram(values: np.ndarray) -> Histogram:
    """(N,) positive values, N above 0, in bins between powers of sqrt(2)."""
    bin_index = np.floor(BINS_PER_OCTAVE * np.log2(values)).astype(np.int64)
    first = int(bin_index.min())
    counts = np.bincount(bin_index - first)
    edges = 2.0 ** (np.arange(first, first + len(counts) + 1) / BINS_PER_OCTAVE)
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), (low, median, high))


def input_section(fit: InputFit) -> ReportSection:
    """Sizes at the input, and the anchors."""
    height, width = fit.network.input.size
    resize_text = {"letterbox": "letterboxed", "stretch": "stretched"}[fit.network.input.resize]
    stats = [Stat("input", f"{height}x{width}", f"height x width, {resize_text}")]
    charts = []
    if fit.sides:
        svg = percentage_histogram(fit.sides, "side in input pixels", logarithmic=True)
        note = "Boxes of fewer than some 8 pixels a side are rarely found; a larger input makes them larger."
        charts.append(Chart("Sizes of boxes at the input", svg, split_legend(fit.sides, "line"), note))
        split, first = next(iter(fit.fits.items()))
        stats += _anchor_stats(split, first, fit.network.match_iou)
        charts.append(Chart(f"Which anchors answer for the boxes of {split}", _anchor_chart(fit, first)))
    lead = (
        f"The boxes as {fit.network.name} sees them. Best possible recall is the share of boxes whose most similar "
        "anchor, sizes alone compared, has more IoU than that. The command anchors looks for some that fit better."
    )
    tables = (_fit_table(fit), _anchor_table(fit), bin_table(fit.sides, "side in input pixels, by bin"))
    return ReportSection("input", "At the network's input", lead, (Stats(tuple(stats)), Charts(tuple(charts)), *tables))


def _anchor_stats(split: str, fit: AnchorFit, match_iou: float | None) -> list[Stat]:
    stats = [Stat("best possible recall", f"{fit.recall50:.3f}", f"of {split}, above an IoU of .50")]
    if fit.recall is not None:
        stats.append(Stat("in training", f"{fit.recall:.3f}", f"above {match_iou:g}, from which anchors answer"))
    return [*stats, Stat("mean best IoU", f"{fit.mean_iou:.3f}", f"of the boxes of {split}")]


def _anchor_chart(fit: InputFit, first: AnchorFit) -> Markup:
    rows = [
        (f"{w:g}x{h:g}, stride {stride}", 100 * fraction, f"{w:g}x{h:g}: {fraction:.1%} of the boxes")
        for (w, h), stride, fraction in zip(
            fit.network.anchors_wh, fit.network.strides, first.best_match_fraction, strict=True
        )
    ]
    return bar_chart(rows, "% of the boxes that this anchor fits best", digits=1)


def _fit_table(fit: InputFit) -> Table:
    columns = (
        Column("split"),
        Column("recall above .50", 3, True, 1.0),
        Column("recall in training", 3, True, 1.0, tooltip="above train.assigner.match_iou, where the config has one"),
        Column("mean best IoU", 3, True, 1.0),
        Column("anchors a box", 2, True, tooltip="that answer for it in training, in the mean"),
    )
    rows = tuple(
        (split, one.recall50, one.recall, one.mean_iou, one.anchors_per_box) for split, one in fit.fits.items()
    )
    return Table("How well the anchors fit", columns, rows)


def _anchor_table(fit: InputFit) -> Table:
    columns = (
        Column("anchor"),
        *(Column("width", None, True), Column("height", None, True), Column("stride", None, True)),
        *(Column(f"share of {split}", 3, True, 1.0) for split in fit.fits),
    )
    rows: tuple[tuple[CellValue, ...], ...] = tuple(
        (str(i + 1), w, h, stride, *(one.best_match_fraction[i] for one in fit.fits.values()))
        for i, ((w, h), stride) in enumerate(zip(fit.network.anchors_wh, fit.network.strides, strict=True))
    )
    return Table("Anchors", columns, rows, collapsed=True)
