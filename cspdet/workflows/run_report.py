"""Report of a training run: a short error analysis in the log, and the page `report.html` in the run folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cspdet.io.outputs import PAGE, is_other_file

if TYPE_CHECKING:
    from cspdet.analysis.structures import Analysis
    from cspdet.models.bundle import Network
    from cspdet.recipe import Recipe
    from cspdet.reports.run_metrics import RunMetrics
    from cspdet.reports.run_report import RunReport
    from cspdet.training.tasks.base import TrainingData

log = logging.getLogger("cspdet")


def report_run(run_dir: Path, recipe: Recipe, data: TrainingData[Any], network: Network, *, is_complete: bool) -> None:
    """Log a short error analysis of the best weights, and write the report of the run.

    A failure is logged as one warning, and the run is not affected. A file that cspdet did not write is kept.

    Args:
        run_dir: The run folder.
        recipe: The recipe of the run.
        data: The splits.
        network: The network.
        is_complete: Whether the run reached its end. If not, the analysis is skipped, because it can take long.
    """
    from cspdet.reports.run_report import REPORT_FILE, write_run_report

    path = run_dir / REPORT_FILE
    try:
        analysis = _analyze(data.val, run_dir) if is_complete and recipe.task == "detection" else None
        if is_other_file(path, PAGE):
            log.warning("%s: exists, and cspdet did not write it; it is kept, and there is no report", path)
            return
        write_run_report(path, _collect(run_dir, recipe, data, network, analysis, is_complete))
    except Exception as error:  # a failure of the report must not fail the run
        log.warning("%s: the report cannot be written: %s", path, str(error).split("\n")[0] or type(error).__name__)
        return
    log.info("report: %s", path)


def plot_run(run_dir: Path) -> None:
    """Plot the training curves to `curves.png` in the run folder.

    A failure is logged as one warning, and the run is not affected. A file that cspdet did not write is kept.
    """
    from cspdet.reports.training_curves import draw_run_curves  # imports matplotlib only when it draws

    try:
        draw_run_curves(run_dir)
    except Exception as error:  # a failure of the plot must not fail the run
        log.warning("%s: the training curves cannot be plotted: %s", run_dir, str(error).split("\n")[0])


def _analyze(val_set: Any, run_dir: Path) -> Analysis | None:
    """Analyze the detections of the best weights and log a summary; return None if there are no detections."""
    from cspdet.analysis.build import analyze_results
    from cspdet.analysis.summary import short_summary
    from cspdet.evaluation.results import read_results
    from cspdet.reports.run_report import NUM_WORST_IMAGES

    path = run_dir / "detections.json"
    if val_set is None or not path.is_file():
        return None
    results = read_results(path, val_set)
    analysis = analyze_results(val_set, results, name="best.pt", source=str(path), gallery=NUM_WORST_IMAGES)
    for line in [*short_summary(analysis), f"the full analysis, with images: cspdet analyze {run_dir}"]:
        log.info("%s", line)
    return analysis


def _collect(
    run_dir: Path, recipe: Recipe, data: TrainingData[Any], network: Network, analysis: Analysis | None, done: bool
) -> RunReport:
    from cspdet.datasets.checks.statistics import data_statistics
    from cspdet.reports.run_report import RunReport

    splits = {name: split for name, split in (("train", data.train), ("val", data.val)) if split is not None}
    of_boxes = recipe.task == "detection"
    return RunReport(
        run_dir=run_dir,
        facts=_facts(run_dir, recipe, data, network),
        config=(run_dir / "config.yaml").read_text(encoding="utf-8"),
        epochs=recipe.train.epochs,
        is_complete=done,
        metrics=_read_metrics(run_dir),
        analysis=analysis,
        val_set=data.val if of_boxes else None,
        statistics={name: data_statistics(split) for name, split in splits.items()} if of_boxes else {},
        image_counts={} if of_boxes else {name: _class_counts(split) for name, split in splits.items()},
    )


def _facts(run_dir: Path, recipe: Recipe, data: TrainingData[Any], network: Network) -> tuple[tuple[str, str], ...]:
    from cspdet.workflows.run_facts import network_name

    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    height, width = recipe.input.size
    return (
        ("model", f"{network_name(recipe.model_dump(mode='json'))}, {parameters:.2f} M parameters"),
        ("input size", f"{width} x {height}"),
        ("config", str(run_dir / "config.yaml")),
        ("data", data.summary),
    )


def _read_metrics(run_dir: Path) -> RunMetrics | None:
    """Read `metrics.jsonl`; return None if the file is missing, empty or invalid."""
    from cspdet.errors import DataError
    from cspdet.reports.run_metrics import read_runs

    try:
        return read_runs([run_dir])[0]
    except DataError:
        return None


def _class_counts(split: Any) -> dict[str, int]:
    return dict(zip(split.classes, split.counts.tolist(), strict=True))
