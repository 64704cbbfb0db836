"""COCO AP of a model on a split of a data set, or of an existing COCO results file (--detections).

  cspdet eval runs/x/best.pt
  cspdet eval --detections found.json --data data/coco.yaml
  cspdet eval runs/x/best.pt --split test --name my-detector     # the zip for COCO's server

Leaves metrics.json and detections.json in the output folder. With --voc, Pascal VOC's AP stands beside COCO's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cspdet.cli.arguments import add_device_argument, add_import_argument, check_model
from cspdet.config.loader import parse_config
from cspdet.errors import ConfigError
from cspdet.inference.config import BACKENDS, EngineConfig
from cspdet.io.atomic import write_text
from cspdet.io.folders import increment_path

if TYPE_CHECKING:
    from cspdet.datasets.formats.coco import CocoDataset
    from cspdet.evaluation.coco import Metrics, Result
    from cspdet.evaluation.voc import VocMetrics
    from cspdet.inference.engines.base import Engine
    from cspdet.models.bundle import BundleConfig
    from cspdet.models.config import EvalConfig
    from cspdet.structures import Categories

METRIC_DESCRIPTIONS = {
    "AP": "average precision, IoU .50 to .95",
    "AP50": "at IoU .50",
    "AP75": "at IoU .75",
    "APs": "small objects, below 32x32 pixels",
    "APm": "medium objects, below 96x96",
    "APl": "large objects",
    "AR1": "average recall, 1 detection a picture and class",
    "AR10": "10 detections",
    "AR100": "100 detections",
    "ARs": "100, small objects",
    "ARm": "100, medium objects",
    "ARl": "100, large objects",
}
EVALUATORS = ("auto", "pycocotools", "hotcoco")
VOC_IOU = 0.5


@dataclass(frozen=True)
class _EvalOutput:
    """What one run of eval found out."""

    coco: CocoDataset
    metrics: Metrics
    results: list[Result]
    model_info: dict[str, Any]  # the model and its input size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `eval` takes."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a checkpoint, an exported file, or a config with --weights"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained values for a config")
    parser.add_argument("--detections", type=Path, metavar="FILE", help="judge this COCO results file; no MODEL then")
    parser.add_argument("--data", type=Path, metavar="DESCRIPTOR", help="data descriptor (default: the model's own)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="default: %(default)s")
    parser.add_argument("--min-score", type=float, metavar="S", help="keep detections above this (default: 0.001)")
    parser.add_argument(
        "--nms-iou", "--max-iou", type=float, metavar="T", help="NMS: the highest overlap that stays (default: 0.6)"
    )
    parser.add_argument(
        "--vote-iou",
        type=float,
        metavar="T",
        help="box voting: each box becomes the average of those that overlap it by more; 1: none (default: as the "
        "config says)",
    )
    parser.add_argument("--max-detections", type=int, metavar="N", help="the best N of a picture (default: 100)")
    parser.add_argument(
        "--clip-boxes",
        action=argparse.BooleanOptionalAction,
        help="cut boxes at the border of their pictures (default: as the config says, which does unless it was made "
        "of a Darknet cfg; a results file is judged as it is)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="pictures a forward pass (default: 16)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read pictures")
    parser.add_argument(
        "--backend", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: the network itself, as training judges it)"
    )
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, fp16 or int8 (default: %(default)s)")
    add_device_argument(parser)
    parser.add_argument(
        "--evaluator", choices=EVALUATORS, help="auto (default): hotcoco, which counts as pycocotools, if installed"
    )
    parser.add_argument("--voc", action="store_true", help="Pascal VOC's AP too: 11-point and every-point")
    parser.add_argument(
        "--voc-iou", type=float, metavar="T", help=f"least overlap of VOC's AP (default: {VOC_IOU}); implies --voc"
    )
    parser.add_argument(
        "--voc-pixels",
        choices=("inclusive", "continuous"),
        help="whether the last pixel adds one to a box's sides, as in VOC's devkit (default: inclusive); implies --voc",
    )
    parser.add_argument(
        "--name", metavar="ALGORITHM", help="in the name of the zip for COCO's server (default: cspdet)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/eval, and -2, -3 ... when taken")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    add_import_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate, print, and leave metrics.json and detections.json in the output folder."""
    _validate_args(args)
    if args.model is not None:
        check_model(args.model, args.overrides)
    from cspdet.evaluation.results import submission_name, write_submission

    result = _evaluate_file(args) if args.model is None else _evaluate_model(args)
    metrics, voc = result.metrics, _evaluate_voc(args, result)
    document = {**metrics.to_json(), **result.model_info, **({} if voc is None else {"voc": voc.to_json()})}
    has_no_ground_truth = all(value is None for value in metrics.stats.values())
    output = args.output or increment_path(Path("runs/eval"))
    written = ["metrics.json", "detections.json"]
    write_text(output / "detections.json", json.dumps(result.results))
    write_text(output / "metrics.json", json.dumps(document, indent=2) + "\n")
    if has_no_ground_truth and args.split == "test":
        name = submission_name(result.coco.files.annotations, args.name or "cspdet")
        written.append(write_submission(output, name, result.results).name)
    if args.json:
        print(json.dumps(document))
        return
    lines = _no_ground_truth_message(result) if has_no_ground_truth else format_table(metrics, voc)
    print("\n".join(lines))
    print(f"\nwritten to {output}: {', '.join(written)}")
    if len(written) > 2:
        print(f"for COCO's evaluation server: {output / written[-1]}")


def _validate_args(args: argparse.Namespace) -> None:
    """Refuse what cannot be done before anything slow is done."""
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
            raise ConfigError(f"--name: names the zip that --split test writes, found --split {args.split}")


def _check_file_options(args: argparse.Namespace) -> None:
    """Refuse what would change nothing about a results file, rather than pass over it."""
    reasons = {
        "vote_iou": "a results file holds no more of the boxes that vote",
        "nms_iou": "a results file has been through NMS",
        "weights": "a results file has no network",
        "backend": "a results file has no network",
    }
    for name, reason in reasons.items():
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: {reason}; expected a MODEL")


def _evaluate_model(args: argparse.Namespace) -> _EvalOutput:
    from cspdet.checkpoints.loading import load_model
    from cspdet.device import select_device
    from cspdet.evaluation.detection import evaluate_detector
    from cspdet.evaluation.predictors import NetworkDetector, evaluation_mode
    from cspdet.inference.engines.exported import is_exported
    from cspdet.inference.engines.factory import build_engine

    exported = is_exported(args.model)
    if exported and args.data is None:
        raise ConfigError(f"{args.model}: an exported file does not name any data; expected --data DESCRIPTOR")
    engine_config = EngineConfig(args.backend or ("auto" if exported else "torch"), args.precision, args.device)
    engine_config.check()
    device = select_device(args.device)
    bundle = load_model(args.model, weights=args.weights, overrides=args.overrides, task="detection")
    if exported or args.backend is not None or args.precision != "fp32":
        return _evaluate_engine(args, build_engine(bundle, engine_config), None if exported else bundle.config)
    eval_ = _eval_config_from_args(args, bundle.config.eval.model_dump(mode="json"))
    coco, class_mapping = _load_data(args, bundle.config.data, bundle.categories)
    input_ = bundle.config.input
    network = bundle.detector.to(device)
    with evaluation_mode(network):
        metrics, results = evaluate_detector(NetworkDetector(network, device), coco, input_, eval_, class_mapping)
    return _EvalOutput(coco, metrics, results, {"model": bundle.name, "size": list(input_.size)})


def _evaluate_engine(args: argparse.Namespace, engine: Engine, config: BundleConfig | None) -> _EvalOutput:
    """A network that another program runs, or ours in another precision; `config` is None for an exported file."""
    from cspdet.evaluation.detection import evaluate_detector

    engine.check_voting(args.vote_iou)
    eval_ = _eval_config_from_args(args, engine.metadata.eval.model_dump(mode="json"))
    coco, class_mapping = _load_data(args, None if config is None else config.data, engine.classes)
    metrics, results = evaluate_detector(engine, coco, engine.metadata.input, eval_, class_mapping)
    model_info = {"model": engine.metadata.name, "size": list(engine.size_hw), "backend": engine.name}
    return _EvalOutput(coco, metrics, results, {**model_info, "precision": engine.precision})


def _load_data(
    args: argparse.Namespace, model_data: Path | None, classes: Categories
) -> tuple[CocoDataset, tuple[int, ...] | None]:
    """The split to judge on, and the index in it of each class of the model, where that differs."""
    from cspdet.datasets.descriptor import load_dataset_config
    from cspdet.datasets.formats.coco import load_coco
    from cspdet.evaluation.detection import match_classes

    descriptor = args.data or model_data
    assert descriptor is not None
    coco = load_coco(load_dataset_config(descriptor).split(args.split), args.split, allow_empty=args.split == "test")
    return coco, match_classes(classes, coco.classes, str(coco.files.annotations))


def _evaluate_file(args: argparse.Namespace) -> _EvalOutput:
    from cspdet.datasets.descriptor import load_dataset_config
    from cspdet.datasets.formats.coco import load_coco
    from cspdet.evaluation.coco import evaluate_results
    from cspdet.evaluation.coco_backends import select_backend
    from cspdet.evaluation.results import clip_results, filter_results, read_results

    if args.data is None:
        raise ConfigError("eval --detections: --data DESCRIPTOR is missing, which says what to compare with")
    if args.overrides:
        raise ConfigError(f"eval --detections: there is no config that {args.overrides[0]!r} could override")
    eval_config = _eval_config_from_args(args, {})
    select_backend(eval_config.evaluator)
    descriptor = load_dataset_config(args.data)
    files = getattr(descriptor, args.split)
    if files is None or not files.annotations.is_file():
        files = descriptor.split(args.split)  # tells what is missing; the pictures themselves may be
    coco = load_coco(files, args.split, allow_empty=True)
    results = filter_results(read_results(args.detections, coco), args.min_score, args.max_detections)
    if args.clip_boxes:
        results = clip_results(results, coco)
    metrics = evaluate_results(coco, results, evaluator=eval_config.evaluator)
    return _EvalOutput(coco, metrics, results, {"model": None, "size": None})


def _eval_config_from_args(args: argparse.Namespace, base: dict[str, Any]) -> EvalConfig:
    """The eval section of a config, with what was given on the command line."""
    from cspdet.models.config import EvalConfig

    given = {name: getattr(args, name) for name in EvalConfig.model_fields if getattr(args, name) is not None}
    return parse_config({**base, **given}, EvalConfig, "command line")


def _evaluate_voc(args: argparse.Namespace, result: _EvalOutput) -> VocMetrics | None:
    """VOC's AP, if it was asked for."""
    from cspdet.evaluation.records import read_ground_truth, to_records
    from cspdet.evaluation.voc import evaluate_voc

    if not args.voc and args.voc_iou is None and args.voc_pixels is None:
        return None
    classes = result.coco.classes
    return evaluate_voc(
        classes,
        read_ground_truth(result.coco),
        to_records(result.results),
        min_iou=VOC_IOU if args.voc_iou is None else args.voc_iou,
        pixel_inclusive=args.voc_pixels != "continuous",
    )


def _no_ground_truth_message(result: _EvalOutput) -> list[str]:
    metrics = result.metrics
    counts = f"{metrics.images} pictures, {metrics.detections} detections"
    return [f"{counts}; {result.coco.files.annotations} has no boxes to find, so there is no AP to tell"]


def format_table(metrics: Metrics, voc: VocMetrics | None = None) -> list[str]:
    """The numbers as lines to read: the twelve, then AP and AP50 of each class, beside VOC's two where there are."""
    lines = [f"{metrics.images} pictures, {metrics.detections} detections, {metrics.evaluator}", ""]
    lines += [f"{name:<6} {_format_metric(metrics[name])}  {meaning}" for name, meaning in METRIC_DESCRIPTIONS.items()]
    if voc is not None:
        eleven, every = (None, None) if voc.mean is None else voc.mean
        lines += [
            "",
            f"VOC AP at IoU {voc.min_iou:g}: {_format_metric(eleven)} 11-point, {_format_metric(every)} every-point",
        ]
    width = max(len(name) for name in ("class", *metrics.per_class))
    lines += ["", f"{'class':<{width}}      AP   AP50" + ("" if voc is None else "  11-point every-point")]
    for name, of_class in metrics.per_class.items():
        line = f"{name:<{width}}  {_format_metric(of_class['AP'])} {_format_metric(of_class['AP50'])}"
        if voc is not None:
            eleven, every = voc.per_class[name] or (None, None)
            line += f"    {_format_metric(eleven)}      {_format_metric(every)}"
        lines.append(line)
    return lines


def _format_metric(value: float | None) -> str:
    return "    --" if value is None else f"{value:6.4f}"
