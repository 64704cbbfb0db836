"""Error analysis of COCO results files; writes tables and an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cspdet.analysis.build import analyze as analyze_run
from cspdet.analysis.comparison import compare, with_changed_images
from cspdet.analysis.config import AnalysisConfig
from cspdet.analysis.matched_run import match_results
from cspdet.analysis.structures import Analysis, Comparison
from cspdet.analysis.tables import CSV_FILES, write_tables
from cspdet.config.read import read_yaml
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.errors import ConfigError, DataError
from cspdet.evaluation.coco import evaluate_results
from cspdet.evaluation.results import read_results
from cspdet.io.folders import increment_path
from cspdet.io.names import distinct_names
from cspdet.io.outputs import ANALYSIS_JSON, OutputFile, check_outputs


@dataclass(frozen=True)
class AnalysisReport:
    """The result of `analyze`.

    Attributes:
        analyses: One analysis per results file, in the given order.
        comparison: Comparison of the first run with all other runs; None for a single results file.
        annotations: The annotation file with the ground truth.
        output: Path of the output folder.
        files: File names of the written tables in `output`.
        page: Path of the HTML page; None if it was not written.
    """

    analyses: tuple[Analysis, ...]
    comparison: Comparison | None
    annotations: Path
    output: Path
    files: tuple[str, ...]
    page: Path | None


def analyze_results_files(
    results: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    data: str | Path | None = None,
    split: str = "val",
    output: str | Path | None = None,
    config: AnalysisConfig = AnalysisConfig(),  # noqa: B008
    page: bool = True,
) -> AnalysisReport:
    """Analyze the errors of detections, and compare several runs. The arguments are those of `cspdet.analyze`."""
    paths = [Path(path) for path in results]
    if not paths:
        raise ConfigError("analyze: expected at least one results file, found none")
    names = distinct_names(paths) if names is None else names
    if len(names) != len(paths):
        raise ConfigError(f"analyze: expected a name for each of the {len(paths)} results files, found {len(names)}")
    if output is not None:
        _check_outputs(Path(output), [*paths, *(() if data is None else (data,))])
    dataset = _load_analysis_split(
        data or _descriptor_from_configs(paths), split, named_by_user=data is not None
    )  # fmt: skip
    detections = [read_results(path, dataset) for path in paths]  # report all errors before the slow part
    matched_runs = [match_results(dataset, listed, iou=config.min_iou) for listed in detections]
    analyses = tuple(
        analyze_run(
            run, evaluate_results(dataset, listed), name=name, source=str(path), min_score=config.min_score,
            gallery=config.gallery,
        )
        for run, listed, name, path in zip(matched_runs, detections, names, paths, strict=True)
    )  # fmt: skip
    comparison = None
    if len(paths) > 1:
        comparison = compare(matched_runs, names, resamples=config.resamples, seed=config.seed)
        comparison = with_changed_images(comparison, matched_runs, [one.threshold for one in analyses], config.gallery)
    folder = increment_path(Path("runs/analyze")) if output is None else Path(output)
    files = tuple(write_tables(folder, analyses, comparison))
    page_path = folder / "index.html" if page else None
    if page_path is not None:
        from cspdet.reports.analysis_page import write_analysis_page  # jinja2, for the page only
        from cspdet.workflows.run_facts import read_run_facts

        facts = [read_run_facts(path) for path in paths]
        write_analysis_page(page_path, analyses, comparison, dataset, gallery=config.gallery, run_facts=facts)
    return AnalysisReport(analyses, comparison, dataset.files.annotations, folder, files, page_path)


def _check_outputs(folder: Path, inputs: Sequence[str | Path]) -> None:
    """Raise UserError if a table or the page would replace an input, or a file that cspdet did not write."""
    others = tuple(folder / name for name in (*CSV_FILES, "index.html"))
    check_outputs([OutputFile(folder / "analysis.json", ANALYSIS_JSON, others)], inputs)


def _load_analysis_split(descriptor: str | Path, split: str, *, named_by_user: bool) -> CocoDataset:
    """Load a split without checking that its images exist; only the galleries of the page need the images."""
    config = load_dataset_config(descriptor, named_by_user=named_by_user)
    files = getattr(config, split, None)
    if files is None or not files.annotations.is_file():
        files = config.split(split)  # raises an error with hints
    return load_coco(files, split, allow_empty=True)


def _descriptor_from_configs(paths: Sequence[Path]) -> Path:
    """Return the path of the data descriptor that the `config.yaml` next to each results file names.

    Raises:
        ConfigError: No config names a descriptor.
        DataError: The configs name different descriptors.
    """
    named: dict[str, Path] = {}
    for path in paths:
        config = path.parent / "config.yaml"
        content = read_yaml(config)[0] if config.is_file() else None
        data = content.get("data") if isinstance(content, dict) else None
        if isinstance(data, str):
            named.setdefault(data, path)
    if not named:
        raise ConfigError("analyze: --data DESCRIPTOR is missing, and no config.yaml next to the results names one")
    if len(named) > 1:
        listed = "; ".join(f"{path.parent} uses {data}" for data, path in named.items())
        raise DataError(f"analyze: the runs use different data: {listed}. Select one descriptor with --data")
    return Path(next(iter(named)))
