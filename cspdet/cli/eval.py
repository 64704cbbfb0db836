"""Evaluate a detector (COCO AP), a classifier (top-1, top-5), or a COCO results file (--detections).

  cspdet eval runs/x/best.pt
  cspdet eval runs/csppeleenet/best.pt --data imagenet
  cspdet eval --detections results.json --data data/coco/coco.yaml
  cspdet eval runs/x/best.pt --split test --name my-detector     # also writes the zip for the COCO server

Writes metrics.json and detections.json (for a classifier, predictions.csv) to the output folder. --voc adds the AP of
Pascal VOC.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.cli.arguments import (
    CONFIG_SUFFIXES,
    SPLITS,
    add_device_argument,
    add_model_options,
    check_model,
    check_weights,
    model_file,
    print_lines,
    use_data_override,
)  # fmt: skip
from cspdet.cli.eval_classifier import add_crop_arguments, check_eval_outputs, print_classification
from cspdet.cli.eval_table import format_metrics
from cspdet.errors import ConfigError, DataError, check_all
from cspdet.inference.config import BACKENDS
from cspdet.io.atomic import write_text
from cspdet.io.folders import increment_path
from cspdet.io.names import count
from cspdet.io.tables import Table
from cspdet.models.config import ClassifierEvalConfig, EvalConfig

if TYPE_CHECKING:
    from cspdet.evaluation.voc import VocMetrics
    from cspdet.workflows.evaluate import DetectionEvaluation, Evaluation

SETTINGS = tuple(dict.fromkeys((*EvalConfig.model_fields, *ClassifierEvalConfig.model_fields)))
EVALUATORS = ("auto", "pycocotools", "hotcoco")
VOC_IOU = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `eval`."""
    parser.add_argument(
        "model", nargs="?", type=model_file, metavar="MODEL",
        help="a checkpoint, a run folder, an exported file, or a config with --weights",
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained weights for a config")
    parser.add_argument(
        "--detections", type=Path, metavar="FILE", help="evaluate this COCO results file instead of a MODEL"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DESCRIPTOR",
        help="data descriptor, or for a classifier an image folder (default: `data` of the model's config)",
    )  # fmt: skip
    parser.add_argument("--split", choices=SPLITS, default="val", help="split (default: %(default)s)")
    parser.add_argument("--min-score", type=float, metavar="S", help="score threshold (default: 0.001)")
    parser.add_argument("--nms-iou", "--max-iou", type=float, metavar="T", help="NMS IoU threshold (default: 0.6)")
    parser.add_argument(
        "--vote-iou", type=float, metavar="T",
        help="box voting: replace each box by the score-weighted average of the boxes that have an IoU above T with "
        "it; 1 disables it (default: value of the config)",
    )  # fmt: skip
    parser.add_argument(
        "--max-detections", type=int, metavar="N", help="maximum number of detections per image (default: 100)"
    )
    parser.add_argument(
        "--clip-boxes",
        action=argparse.BooleanOptionalAction,
        help="clip boxes to the image (default: value of the config, which is true except for a Darknet cfg; boxes of "
        "a results file are not clipped)",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images per forward pass (default: 16; classifiers: 32)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="number of loader processes")
    parser.add_argument(
        "--backend", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: the PyTorch network, as in training)"
    )
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, fp16 or int8 (default: %(default)s)")
    add_device_argument(parser)
    parser.add_argument(
        "--evaluator",
        choices=EVALUATORS,
        help="auto (default): hotcoco if installed, else pycocotools; both compute the same values",
    )
    parser.add_argument(
        "--voc", action="store_true", help="also compute the AP of Pascal VOC: 11-point and every-point"
    )
    parser.add_argument(
        "--voc-iou", type=float, metavar="T",
        help=f"IoU threshold of the AP of Pascal VOC (default: {VOC_IOU}); implies --voc",
    )  # fmt: skip
    parser.add_argument(
        "--voc-pixels",
        choices=("inclusive", "continuous"),
        help="inclusive (default): width is x2 - x1 + 1, as in VOC's devkit; continuous: x2 - x1; implies --voc",
    )
    parser.add_argument(
        "--name", metavar="ALGORITHM", help="algorithm in the file name of the COCO server's zip (default: cspdet)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder (default: runs/eval, or -2 ... if used)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    add_model_options(parser)
    add_crop_arguments(parser.add_argument_group("classifiers"))


def run(args: argparse.Namespace) -> None:
    """Evaluate, print the metrics, and write metrics.json and the predictions to the output folder."""
    use_data_override(args)
    _validate_args(args)
    check_all(lambda: _check_inputs(args), lambda: check_weights(args.weights), lambda: _check_data(args.data))
    check_eval_outputs(args.output, (args.model, args.weights, args.detections, args.data))
    evaluation = evaluate_args(args)
    if evaluation.task == "classification":
        print_classification(args, evaluation)
    else:
        _print_detection(args, evaluation)


def _check_inputs(args: argparse.Namespace) -> None:
    if args.model is not None:
        check_model(args.model, args.overrides)
    elif not args.detections.is_file():
        raise DataError(f"{args.detections}: no such file; expected a COCO results file")


def _check_data(data: Path | None) -> None:
    if data is not None and data.suffix in CONFIG_SUFFIXES and not data.exists():
        from cspdet.datasets.descriptor import load_dataset_config

        load_dataset_config(data)


def _print_detection(args: argparse.Namespace, evaluation: DetectionEvaluation) -> None:
    """Print the metrics, and write metrics.json and detections.json.

    For the split test without ground truth, the zip for the COCO evaluation server is also written.
    """
    from cspdet.evaluation.results import submission_name, write_submission

    metrics, voc = evaluation.metrics, _evaluate_voc(args, evaluation)
    document = {**metrics.to_json(), **evaluation.model_info, **({} if voc is None else {"voc": voc.to_json()})}
    has_no_ground_truth = all(value is None for value in metrics.stats.values())
    output = args.output or increment_path(Path("runs/eval"))
    written = ["metrics.json", "detections.json"]
    write_text(output / "metrics.json", json.dumps(document, indent=2) + "\n")
    write_text(output / "detections.json", json.dumps(evaluation.results))
    if has_no_ground_truth and args.split == "test":
        name = submission_name(evaluation.dataset.files.annotations, args.name or "cspdet")
        written.append(write_submission(output, name, evaluation.results).name)
    if args.json:
        print(json.dumps(document))
        return
    lines = _no_ground_truth_message(evaluation) if has_no_ground_truth else format_metrics(evaluation, voc)
    lines += ["", f"written to {output}: {', '.join(written)}"]
    print_lines([*lines, f"for the COCO evaluation server: {output / written[-1]}"] if len(written) > 2 else lines)


def _validate_args(args: argparse.Namespace) -> None:
    """Raise ConfigError if an argument is missing, invalid, or cannot be combined with another argument."""
    from cspdet.evaluation.results import validate_algorithm_name

    if (args.model is None) == (args.detections is None):
        raise ConfigError("eval: expected either a MODEL or --detections FILE" + (", found both" if args.model else ""))
    if args.detections is not None:
        _check_file_options(args)
    if args.voc_iou is not None and not 0 < args.voc_iou <= 1:
        raise ConfigError(f"--voc-iou: expected more than 0 and at most 1, found {args.voc_iou:g}")
    if args.name is not None:
        validate_algorithm_name(args.name)
        if args.split != "test":
            raise ConfigError(f"--name: applies only to the zip of --split test, found --split {args.split}")


def _check_file_options(args: argparse.Namespace) -> None:
    """Raise ConfigError for arguments that have no effect on a results file, and for a missing `--data`."""
    reasons = {
        "vote_iou": "a results file does not contain the boxes that are averaged",
        "nms_iou": "NMS was already applied to a results file",
        "weights": "a results file has no network",
        "backend": "a results file has no network",
        **dict.fromkeys(("resize", "crop", "ten_crop"), "is for classifiers"),
    }
    for name, reason in reasons.items():
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: {reason}; expected a MODEL")
    if args.data is None:
        raise ConfigError("eval --detections: --data DESCRIPTOR is missing, which names the ground truth")
    if args.overrides:
        raise ConfigError(f"eval --detections: there is no config that {args.overrides[0]!r} could override")


def evaluate_args(args: argparse.Namespace) -> Evaluation:
    """Evaluate the model, or the results file of `--detections`, with the settings from the arguments."""
    from cspdet.workflows.evaluate import EvaluationOptions, evaluate_model, evaluate_results_file

    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    if args.model is None:
        return evaluate_results_file(args.detections, args.data, args.split, settings)
    return evaluate_model(
        EvaluationOptions(
            args.model, args.weights, args.overrides, None, args.data, args.split, args.device, args.backend,
            args.precision, settings, args.interpolation,
        )
    )  # fmt: skip


def _evaluate_voc(args: argparse.Namespace, evaluation: DetectionEvaluation) -> VocMetrics | None:
    """Compute the AP of Pascal VOC; return None if it is not requested."""
    from cspdet.evaluation.records import read_ground_truth, to_records
    from cspdet.evaluation.voc import evaluate_voc

    if not args.voc and args.voc_iou is None and args.voc_pixels is None:
        return None
    classes = evaluation.dataset.classes
    return evaluate_voc(
        classes,
        read_ground_truth(evaluation.dataset),
        to_records(evaluation.results),
        min_iou=VOC_IOU if args.voc_iou is None else args.voc_iou,
        pixel_inclusive=args.voc_pixels != "continuous",
    )


def _no_ground_truth_message(evaluation: DetectionEvaluation) -> list[str | Table]:
    metrics = evaluation.metrics
    counts = f"{count(metrics.images, 'image')}, {count(metrics.detections, 'detection')}"
    return [f"{counts}; {evaluation.dataset.files.annotations} has no ground-truth boxes, so there is no AP"]


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("eval"))
