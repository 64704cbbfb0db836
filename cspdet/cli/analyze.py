"""Error analysis of detections: error types and their AP cost, curves, confusion matrix, worst images, label issues.

  cspdet analyze runs/x                                  # detections.json and config.yaml of a training run
  cspdet analyze results.json --data data/coco/coco.yaml      # any COCO results file
  cspdet analyze runs/x runs/y runs/z                    # comparison: are the differences to the first run significant?

Writes a page, index.html, and all values as analysis.json and CSV files to the output folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.analysis.config import AnalysisConfig
from cspdet.cli.arguments import SPLITS, add_import_argument, print_lines
from cspdet.errors import ConfigError, DataError, check_all, did_you_mean
from cspdet.io.tables import Table

if TYPE_CHECKING:
    from cspdet.workflows.analyze import AnalysisReport

RESULTS_FILE = "detections.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `analyze`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"a folder with {RESULTS_FILE}, or a COCO results file")
    parser.add_argument(
        "--data", type=Path, metavar="DESCRIPTOR", help="data descriptor (default: `data` in config.yaml of the runs)"
    )
    parser.add_argument("--split", choices=SPLITS, default="val", help="split (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder (default: runs/analyze, or -2 ... if used)")
    parser.add_argument(
        "--min-iou",
        type=float,
        default=AnalysisConfig.min_iou,
        metavar="T",
        help="minimum IoU of a detection and a matching box, except in the COCO metrics (default: %(default)s)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="score threshold of the confusion matrix and of the images shown "
        "(default: for each run, the threshold with the best F1)",
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=AnalysisConfig.resamples,
        metavar="N",
        help="bootstrap resamples of the images for the comparison of runs (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the resampling (default: %(default)s)"
    )
    parser.add_argument(
        "--gallery",
        type=int,
        default=AnalysisConfig.gallery,
        metavar="N",
        help="images in each gallery of the page (default: %(default)s)",
    )
    parser.add_argument("--no-report", "--no-page", action="store_true", help="write no index.html")
    parser.add_argument("--json", action="store_true", help="print analysis.json instead of the summary")
    add_import_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Analyze the results, write the tables and the page, and print a summary."""
    config = _analysis_config(args)
    check_all(*(partial(_results_file, word) for word in args.runs))
    paths = [_results_file(word) for word in args.runs]
    from cspdet.analysis.tables import analysis_document
    from cspdet.workflows.analyze import analyze_results_files

    report = analyze_results_files(
        paths, names=run_names(args.runs), data=args.data, split=args.split, output=args.output, config=config,
        page=not args.no_report,
    )  # fmt: skip
    if args.json:
        print(json.dumps(analysis_document(report.analyses, report.comparison), allow_nan=False))
        return
    print_lines([*_text(report), "", f"written to {report.output}: {', '.join(report.files)}"])
    if report.page is not None:
        print_lines([f"open {report.page}"])


def run_names(words: Sequence[str]) -> list[str]:
    """Return a unique name per run.

    The name is the folder name, or the file name without `.json`. Runs with the same name are named by their paths
    instead. If even the paths are equal, a counter is added.
    """
    paths = [Path(word) for word in words]
    short = [path.resolve().parent.name if path.name == RESULTS_FILE else path.resolve().name for path in paths]
    short = [name.removesuffix(".json") for name in short]
    names = [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)
    ]


def _analysis_config(args: argparse.Namespace) -> AnalysisConfig:
    """Build the analysis config from the arguments.

    Raises:
        ConfigError: There are overrides, but `analyze` has no config that they could change; or a value is invalid.
    """
    if args.overrides:
        raise ConfigError(f"analyze: there is no config that {args.overrides[0]!r} could override")
    return AnalysisConfig(args.min_iou, args.min_score, args.resamples, args.seed, args.gallery)


def _results_file(word: str) -> Path:
    """Return the path of the results file for a RUN argument, which is a run folder or a results file.

    Raises:
        DataError: The file does not exist, or it is a model.
    """
    path = Path(word)
    if path.is_dir():
        if (path / RESULTS_FILE).is_file():
            return path / RESULTS_FILE
        names = sorted(entry.name for entry in path.iterdir())
        listed = f"; it has {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else ", which is empty"
        model = next((path / name for name in ("best.pt", "last.pt") if name in names), "MODEL")
        raise DataError(
            f"{path}: no {RESULTS_FILE} in this folder{listed}. `cspdet eval {model} --output {path}` creates one"
        )
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such run folder or results file{did_you_mean(path.name, siblings)}")
    if path.suffix in (".pt", ".safetensors", ".onnx", ".weights"):
        raise DataError(
            f"{path}: a model, not detections; run `cspdet eval {path}` and analyze the folder that it writes"
        )
    return path


def _text(report: AnalysisReport) -> list[str | Table]:
    """Return the lines and tables of the summaries: one summary per run, then the comparison of the runs."""
    from cspdet.analysis.summary import comparison_summary, full_summary

    lines: list[str | Table] = []
    if not any(analysis.num_gt for analysis in report.analyses):
        lines += [
            f"{report.annotations}: no ground-truth boxes: every detection is a false positive, there is no AP",
            "",
        ]
    for analysis in report.analyses:
        lines += [*full_summary(analysis), ""]
    if report.comparison is not None:
        lines += comparison_summary(report.comparison)
    return lines if lines[-1] else lines[:-1]


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("analyze"))
