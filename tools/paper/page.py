"""Markdown page that compares the published values of the paper's tables with those of the configs.

It is generated from the configs, `cspdet.models.published` and `paper.tables`; `tools/paper_page.py` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from cspdet.checkpoints.model_profile import profile_model
from cspdet.errors import ConfigError
from cspdet.models.profile import ModelCost
from cspdet.models.published import PUBLISHED, PublishedResult, Size
from cspdet.recipe import load_recipe
from paper import tables
from paper.tables import PaperRow

NUM_COCO_CLASSES = 80


class CostCache:
    """Parameters and BFLOPs of table rows; each network is profiled once per input size.

    Args:
        configs: The folder with the configs.
    """

    def __init__(self, configs: Path):
        self._configs = configs
        self._cache: dict[tuple[str, tuple[str, ...], Size], ModelCost] = {}

    def config_path(self, config: str) -> Path:
        """Return the path of a classifier config if it exists, else the path of the detector config."""
        classifier = self._configs / "classification" / f"{config}.yaml"
        return classifier if classifier.exists() else self._configs / f"{config}.yaml"

    def get(self, row: PaperRow) -> ModelCost:
        """Return the cost at the published input size; overrides outside `model` are validated but have no effect."""
        changes = tuple(text for text in row.overrides if text.startswith("model."))
        if changes != row.overrides:
            load_recipe(self.config_path(row.config), row.overrides)
        key = (row.config, changes, row.reference.size)
        if key not in self._cache:
            self._cache[key] = profile_model(
                self.config_path(row.config), changes, row.reference.size, NUM_COCO_CLASSES
            ).cost
        return self._cache[key]


def paper_page(configs: Path) -> str:
    """Return the page as Markdown.

    Args:
        configs: The folder with the configs.

    Raises:
        ConfigError: A config is missing or invalid, or a published row is in no table.
    """
    costs = CostCache(configs)
    check_complete(configs, costs)
    sections = [
        tables.PREAMBLE,
        _imagenet("ImageNet classifiers (Table 3, and the README)", tables.IMAGENET, costs),
        _ablation("Gamma and fusion of CSPPeleeNet (Table 1, Figure 4)", costs),
        _coco("Feature fusion, CSPPeleeNet at 416x416 (Table 2)", tables.FUSION, costs),
        _coco("Larger detectors (Table 4, and the README)", tables.LARGER, costs),
        _coco("Smaller detectors (Tables 4 and 5)", tables.SMALLER, costs),
        _prn("Partial residual networks (their Results.md)", tables.PRN, costs),
        _settings("Box losses, CSPResNeXt50-PANet-SPP", "loss", tables.LOSSES, costs),
        _settings("NMS thresholds, CSPResNeXt50-PANet-SPP", "highest overlap, loss", tables.NMS, costs),
        _bottlenecks("Largest layers (Figure 7)", costs),
        _memory_access("Memory traffic (Figure 8)", costs),
        _not_built(),
    ]
    return "\n".join(sections)


def all_rows() -> tuple[PaperRow, ...]:
    """Return the rows of all tables."""
    return (
        *tables.IMAGENET, tables.ABLATION_BASELINE, *tables.ABLATION, *tables.FUSION, *tables.LARGER, *tables.SMALLER,
        *tables.PRN, *tables.LOSSES, *tables.NMS, *chain(*tables.BOTTLENECKS), *tables.MEMORY_ACCESS,
    )  # fmt: skip


def check_complete(configs: Path, costs: CostCache) -> None:
    """Raise ConfigError unless every published row is in a table and every row of the tables has a config."""
    listed = {row.config for row in all_rows()}
    files = {path.stem for folder in (configs, configs / "classification") for path in folder.glob("*.yaml")}
    problems = [
        f"{costs.config_path(name)}: no such file, but the paper's tables name it" for name in sorted(listed - files)
    ]
    problems += [f"{name}: published, but in no table of the page" for name in sorted(set(PUBLISHED) - listed)]
    if problems:
        raise ConfigError(*problems)


# --- tables --------------------------------------------------------------------------------------


def _imagenet(title: str, rows: Sequence[PaperRow], costs: CostCache) -> str:
    head = ("network", "config", "size", "weights", "ours", "difference", "BFLOPs", "ours", "difference",
            "top-1 / top-5", "ours", "type")  # fmt: skip
    lines = []
    for row in rows:
        reference, cost = row.reference, costs.get(row)
        lines.append(
            (row.label, _config(row, costs), reference.size[0], *_weights(cost, reference), *_bflops(cost, reference),
             _format_values(reference.top1, reference.top5), tables.MEASURED.get(row.config, ""), reference.fidelity)
        )  # fmt: skip
    return _section(title, head, lines, notes=_notes(rows))


def _coco(title: str, rows: Sequence[PaperRow], costs: CostCache) -> str:
    head = ("detector", "config", "size", "BFLOPs", "ours", "difference", "our weights", "AP / AP50 / AP75", "ours",
            "fps", "type")  # fmt: skip
    lines = []
    for row in rows:
        reference, cost = row.reference, costs.get(row)
        lines.append(
            (row.label, _config(row, costs), reference.size[0], *_bflops(cost, reference), _millions(cost.conv_weights),
             _ap(reference), tables.MEASURED.get(row.config, ""), reference.fps, reference.fidelity)
        )  # fmt: skip
    return _section(title, head, lines, notes=_notes(rows))


def _prn(title: str, rows: Sequence[PaperRow], costs: CostCache) -> str:
    head = ("detector", "config", "size", "stored values", "ours", "difference", "BFLOPs", "ours", "difference",
            "AP / AP50 / AP75", "ours", "type")  # fmt: skip
    lines = []
    for row in rows:
        reference, cost = row.reference, costs.get(row)
        stored = _comparison_cells(
            cost.stored_values / 1e6, reference.stored_values and reference.stored_values / 1e6, "{:.2f}"
        )
        lines.append(
            (row.label, _config(row, costs), reference.size[0], *stored, *_bflops(cost, reference), _ap(reference),
             tables.MEASURED.get(row.config, ""), reference.fidelity)
        )  # fmt: skip
    return _section(title, head, lines, notes=_notes(rows))


def _settings(title: str, what: str, rows: Sequence[PaperRow], costs: CostCache) -> str:
    """Return a table of one network with several settings."""
    head = (what, "config", "size", "our BFLOPs", "AP / AP50 / AP75", "ours", "type")
    lines = [
        (row.label, _config(row, costs), row.reference.size[0], f"{costs.get(row).bflops:.4f}", _ap(row.reference), "",
         row.reference.fidelity)
        for row in rows
    ]  # fmt: skip
    return _section(title, head, lines)


def _ablation(title: str, costs: CostCache) -> str:
    baseline = costs.get(tables.ABLATION_BASELINE).bflops
    head = ("fusion and gamma", "config", "our weights", "our BFLOPs", "change", "ours", "change of top-1", "ours")
    lines = []
    for row in tables.ABLATION:
        cost = costs.get(row)
        lines.append(
            (row.label, _config(row, costs), _millions(cost.conv_weights), f"{cost.bflops:.4f}",
             "" if row.change is None else f"{row.change:+.0%}", f"{cost.bflops / baseline - 1:+.1%}", row.claim, "")
        )  # fmt: skip
    return _section(title, head, lines, text=tables.ABLATION_TEXT.format(baseline=baseline))


def _bottlenecks(title: str, costs: CostCache) -> str:
    head = ("network", "config", "size", "largest layer", "BFLOPs", "published", "ours")
    lines = []
    for group in tables.BOTTLENECKS:
        first = costs.get(group[0]).largest_layer_bflops
        for row in group:
            largest = costs.get(row).largest_layer
            change = "" if row is group[0] else f"{largest.operations / 1e9 / first - 1:+.1%}"
            lines.append(
                (row.label, _config(row, costs), row.reference.size[0], f"`{largest.name}`",
                 f"{largest.operations / 1e9:.4f}", row.claim, change)
            )  # fmt: skip
    return _section(title, head, lines, text=tables.BOTTLENECK_TEXT)


def _memory_access(title: str, costs: CostCache) -> str:
    head = ("network", "config", "published", "ours", "difference", "convolutions alone")
    lines = []
    for row in tables.MEMORY_ACCESS:
        cost, printed = costs.get(row), row.reference.cio
        pair = _comparison_cells(cost.cio / 1e6, printed and printed / 1e6, "{:.1f}", "{:.2f}")
        lines.append((row.label, _config(row, costs), *pair, f"{cost.conv_memory_access / 1e6:.2f}"))
    return _section(title, head, lines, text=tables.MEMORY_ACCESS_TEXT)


def _not_built() -> str:
    return _section("Published rows without a config", ("network", "published", "why"), tables.NOT_BUILT)


# --- cells ---------------------------------------------------------------------------------------


def _section(
    title: str, head: Sequence[str], lines: Iterable[Sequence[object]], *, text: str = "", notes: Sequence[str] = ()
) -> str:
    parts = [f"## {title}", ""]
    parts += [text, ""] if text else []
    parts += [_table_row(head), _table_row(["---"] * len(head)), *map(_table_row, lines), ""]
    parts += [*notes, ""] if notes else []
    return "\n".join(parts)


def _table_row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _notes(rows: Sequence[PaperRow]) -> list[str]:
    """Return the notes on the published values as Markdown list items, without duplicates."""
    notes = []
    for row in rows:
        words = [row.reference.note] if row.reference.note else []
        words += [row.reference.source] if "counted" in row.reference.source else []
        notes += [f"- {row.label}, {row.reference.size[0]}: {'; '.join(words)}"] if words else []
    return list(dict.fromkeys(notes))


def _config(row: PaperRow, costs: CostCache) -> str:
    """Return a Markdown link to the config, followed by the overrides."""
    path = costs.config_path(row.config)
    folder = "classification/" if path.parent.name == "classification" else ""
    link = f"[{row.config}](../../configs/{folder}{row.config}.yaml)"
    return " ".join([link, *(f"`{text}`" for text in row.overrides)])


def _weights(cost: ModelCost, reference: PublishedResult) -> tuple[str, str, str]:
    return _comparison_cells(cost.conv_weights / 1e6, reference.conv_weights and reference.conv_weights / 1e6, "{:.2f}")


def _bflops(cost: ModelCost, reference: PublishedResult) -> tuple[str, str, str]:
    published, counted, _ = _comparison_cells(cost.bflops, reference.bflops, "{:g}", "{:.4f}")
    return published, counted, _difference(cost.bflops, reference.expected_bflops)


def _comparison_cells(
    counted: float, published: float | None, digits: str, counted_digits: str = "{:.3f}"
) -> tuple[str, str, str]:
    """Return the published value, the counted value, and the relative difference."""
    published_text = "" if published is None else digits.format(published)
    return published_text, counted_digits.format(counted), _difference(counted, published)


def _difference(counted: float, published: float | None) -> str:
    return "" if published is None else f"{counted / published - 1:+.2%}".replace("-0.00%", "+0.00%")


def _millions(value: int) -> str:
    return f"{value / 1e6:.3f}"


def _ap(reference: PublishedResult) -> str:
    return _format_values(reference.ap, reference.ap50, reference.ap75)


def _format_values(*values: float | None) -> str:
    """Format values as `23.1 / 44.5 / 22.0`, with a dash for unknown values; empty if all are unknown."""
    if all(value is None for value in values):
        return ""
    return " / ".join("-" if value is None else f"{value:.1f}" for value in values)
