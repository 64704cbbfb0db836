"""Why AP is what it is: errors and what they cost, curves, confusion, worst pictures, suspects among the labels.

  cspdet analyze runs/x                                  # detections.json and config.yaml of a training run
  cspdet analyze found.json --data data/coco.yaml        # any COCO results file
  cspdet analyze runs/x runs/y runs/z                    # side by side: is the difference to the first one real?

Leaves one page, index.html, and every number as analysis.json and CSV files in the output folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cspdet.analysis.build import DEFAULT_GALLERY_SIZE, analyze
from cspdet.analysis.comparison import DEFAULT_RESAMPLES, compare
from cspdet.analysis.matched_run import BACKGROUND_IOU, match_results
from cspdet.analysis.structures import Analysis, Comparison
from cspdet.analysis.summary import comparison_summary, full_summary
from cspdet.analysis.tables import analysis_document, write_tables
from cspdet.config.read import read_yaml
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.errors import ConfigError, DataError, did_you_mean
from cspdet.evaluation.coco import evaluate_results
from cspdet.evaluation.results import read_results
from cspdet.io.folders import increment_path

RESULTS_FILE = "detections.json"
REPORT_FILE = "index.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `analyze` takes."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"a folder with {RESULTS_FILE}, or a COCO results file")
    parser.add_argument(
        "--data", type=Path, metavar="DESCRIPTOR", help="data descriptor (default: that of the runs' config.yaml)"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/analyze, and -2, -3 ... when taken")
    parser.add_argument(
        "--min-iou",
        type=float,
        default=0.5,
        metavar="T",
        help="overlap from which a detection lies on a box, for everything but COCO's numbers (default: %(default)s)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="score from which detections are kept in the confusion matrix and the pictures "
        "(default: the one with the best F1, of each run)",
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=DEFAULT_RESAMPLES,
        metavar="N",
        help="times that the pictures are drawn anew to compare runs (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of those draws (default: %(default)s)")
    parser.add_argument(
        "--gallery",
        type=int,
        default=DEFAULT_GALLERY_SIZE,
        metavar="N",
        help="pictures in each gallery of the page (default: %(default)s)",
    )
    parser.add_argument("--no-report", "--no-page", action="store_true", help="only the numbers, no index.html")
    parser.add_argument("--json", action="store_true", help="print analysis.json instead of the summary")


def run(args: argparse.Namespace) -> None:
    """Analyze, compare, write and print."""
    _validate_args(args)
    paths = [_results_file(word) for word in args.runs]
    names = run_names(args.runs)
    coco = _load_data(args, paths)
    results = [read_results(path, coco) for path in paths]  # all of them, before anything slow
    matched_runs = [match_results(coco, listed, iou=args.min_iou) for listed in results]
    analyses = [
        analyze(
            one,
            evaluate_results(coco, listed),
            name=name,
            source=str(path),
            min_score=args.min_score,
            gallery=args.gallery,
        )
        for one, listed, name, path in zip(matched_runs, results, names, paths, strict=True)
    ]
    comparison = (
        compare(matched_runs, names, resamples=args.resamples, seed=args.seed) if len(matched_runs) > 1 else None
    )
    output = args.output or increment_path(Path("runs/analyze"))
    written = write_tables(output, analyses, comparison)
    if not args.no_report:
        from cspdet.reports.analysis_page import write_analysis_page

        write_analysis_page(output / REPORT_FILE, analyses, comparison, coco, gallery=args.gallery)
    if args.json:
        print(json.dumps(analysis_document(analyses, comparison), allow_nan=False))
        return
    print("\n".join(_text(analyses, comparison, coco)))
    print(f"\nwritten to {output}: {', '.join(written)}")
    if not args.no_report:
        print(f"open {output / REPORT_FILE}")


def run_names(words: Sequence[str]) -> list[str]:
    """Short names for runs: the folder's or the file's; in full where those are equal, counted where those are."""
    paths = [Path(word) for word in words]
    short = [path.resolve().parent.name if path.name == RESULTS_FILE else path.resolve().name for path in paths]
    short = [name.removesuffix(".json") for name in short]
    names = [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)
    ]


def _validate_args(args: argparse.Namespace) -> None:
    """Refuse what cannot be done before anything slow is done."""
    problems = []
    if args.overrides:
        problems.append(f"analyze: there is no config that {args.overrides[0]!r} could override")
    if not BACKGROUND_IOU < args.min_iou <= 1:
        problems.append(f"--min-iou: expected more than {BACKGROUND_IOU:g} and at most 1, found {args.min_iou:g}")
    if args.min_score is not None and args.min_score != args.min_score:
        problems.append("--min-score: expected a number, found nan")
    if args.resamples < 1:
        problems.append(f"--resamples: expected 1 or more, found {args.resamples}")
    if args.seed < 0:
        problems.append(f"--seed: expected 0 or more, found {args.seed}")
    if args.gallery < 0:
        problems.append(f"--gallery: expected 0 or more, found {args.gallery}")
    if problems:
        raise ConfigError(*problems)


def _results_file(word: str) -> Path:
    """The results file that a RUN means.

    Raises:
        DataError: there is none.
    """
    path = Path(word)
    if path.is_dir():
        if (path / RESULTS_FILE).is_file():
            return path / RESULTS_FILE
        has = sorted(one.name for one in path.iterdir())
        listed = f"; it has {', '.join(has[:5])}{', ...' if len(has) > 5 else ''}" if has else ", which is empty"
        model = next((path / name for name in ("best.pt", "last.pt") if name in has), "MODEL")
        raise DataError(
            f"{path}: no {RESULTS_FILE} in this folder{listed}. `cspdet eval {model} --output {path}` makes one"
        )
    if not path.exists():
        siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such run folder or results file{did_you_mean(path.name, siblings)}")
    if path.suffix in (".pt", ".onnx", ".weights"):
        raise DataError(f"{path}: a model, no detections; run `cspdet eval {path}` and analyze the folder it writes")
    return path


def _load_data(args: argparse.Namespace, paths: Sequence[Path]) -> CocoDataset:
    """The split that all runs are analyzed on; its pictures are only needed for the page's galleries."""
    descriptor = load_dataset_config(args.data or _descriptor_from_configs(paths))
    files = getattr(descriptor, args.split)
    if files is None or not files.annotations.is_file():
        files = descriptor.split(args.split)  # tells what is missing
    return load_coco(files, args.split, allow_empty=True)


def _descriptor_from_configs(paths: Sequence[Path]) -> Path:
    """The descriptor that the config.yaml beside each results file names.

    Raises:
        ConfigError: nothing names one.
        DataError: they name different ones.
    """
    named: dict[str, Path] = {}
    for path in paths:
        config = path.parent / "config.yaml"
        content = read_yaml(config)[0] if config.is_file() else None
        data = content.get("data") if isinstance(content, dict) else None
        if isinstance(data, str):
            named.setdefault(data, path)
    if not named:
        raise ConfigError("analyze: --data DESCRIPTOR is missing, and no config.yaml beside the detections names one")
    if len(named) > 1:
        listed = "; ".join(f"{path.parent} is on {data}" for data, path in named.items())
        raise DataError(f"analyze: the runs are of different data: {listed}. --data says which all are judged on")
    return Path(next(iter(named)))


def _text(analyses: Sequence[Analysis], comparison: Comparison | None, coco: CocoDataset) -> list[str]:
    lines: list[str] = []
    if not any(analysis.num_gt for analysis in analyses):
        lines += [f"{coco.files.annotations}: no boxes, so that detections can only be wrong and there is no AP", ""]
    for analysis in analyses:
        lines += [*full_summary(analysis), ""]
    if comparison is not None:
        lines += comparison_summary(comparison)
    return lines if lines[-1] else lines[:-1]
