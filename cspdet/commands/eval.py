"""COCO AP of a model on a split of a data set, or of an existing COCO results file (--detections)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from cspdet.atomic import write_text
from cspdet.config import parse_config
from cspdet.datasets.coco import load_coco
from cspdet.datasets.descriptor import load_descriptor
from cspdet.errors import ConfigError
from cspdet.evaluation.coco import Metrics, Result, evaluate_results
from cspdet.evaluation.results import cut_results, read_results
from cspdet.evaluation.run import evaluate_model, match_classes
from cspdet.folders import free_folder
from cspdet.model_file import LoadedModel, load_model
from cspdet.precision import pick_device
from cspdet.recipe import EvalConfig

MEANINGS = {
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `eval` takes."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a checkpoint, or a config with --weights")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained values for a config")
    parser.add_argument("--detections", type=Path, metavar="FILE", help="judge this COCO results file; no MODEL then")
    parser.add_argument("--data", type=Path, metavar="DESCRIPTOR", help="data descriptor (default: the model's own)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="default: %(default)s")
    parser.add_argument("--min-score", type=float, metavar="S", help="keep detections above this (default: 0.001)")
    parser.add_argument("--max-iou", type=float, metavar="T", help="NMS: the highest overlap that stays (default: 0.6)")
    parser.add_argument("--max-detections", type=int, metavar="N", help="the best N of a picture (default: 100)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="pictures a forward pass (default: 16)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read pictures")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--evaluator", choices=("auto", "pycocotools"), default="auto", help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/eval, and -2, -3 ... when taken")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")


def run(args: argparse.Namespace) -> None:
    """Evaluate, print, and leave metrics.json and detections.json in the output folder."""
    if (args.model is None) == (args.detections is None):
        raise ConfigError("eval: expected either a MODEL or --detections FILE" + (", found both" if args.model else ""))
    metrics, results, about = _judge_file(args) if args.model is None else _judge_model(args)
    document = {**metrics.to_json(), **about}
    output = args.output or free_folder(Path("runs/eval"))
    write_text(output / "detections.json", json.dumps(results))
    write_text(output / "metrics.json", json.dumps(document, indent=2) + "\n")
    if args.json:
        print(json.dumps(document))
    else:
        print("\n".join(table(metrics)))
        print(f"\nwritten to {output}: metrics.json, detections.json")


def _judge_model(args: argparse.Namespace) -> tuple[Metrics, list[Result], dict[str, Any]]:
    device = pick_device(args.device)
    loaded: LoadedModel = load_model(args.model, weights=args.weights, overrides=args.overrides)
    eval_ = _limits(args, loaded.recipe.eval.model_dump(mode="json"))
    files = load_descriptor(args.data or loaded.recipe.data).split(args.split)
    coco = load_coco(files, args.split, allow_empty=args.split == "test")
    order = match_classes(loaded.classes, coco.classes, str(coco.files.annotations))
    input_ = loaded.recipe.input
    metrics, results = evaluate_model(loaded.model.to(device), coco, input_, eval_, device, class_order=order)
    return metrics, results, {"model": loaded.name, "size": list(input_.size)}


def _judge_file(args: argparse.Namespace) -> tuple[Metrics, list[Result], dict[str, Any]]:
    if args.data is None:
        raise ConfigError("eval --detections: --data DESCRIPTOR is missing, which says what to compare with")
    if args.overrides:
        raise ConfigError(f"eval --detections: there is no config that {args.overrides[0]!r} could override")
    _limits(args, {})
    descriptor = load_descriptor(args.data)
    files = getattr(descriptor, args.split)
    if files is None or not files.annotations.is_file():
        files = descriptor.split(args.split)  # tells what is missing; the pictures themselves may be
    coco = load_coco(files, args.split, allow_empty=True)
    results = cut_results(read_results(args.detections, coco), args.min_score, args.max_detections)
    return evaluate_results(coco, results), results, {"model": None, "size": None}


def _limits(args: argparse.Namespace, base: dict[str, Any]) -> EvalConfig:
    """The eval section of a config, with what was given on the command line."""
    given = {name: getattr(args, name) for name in EvalConfig.model_fields if getattr(args, name) is not None}
    return parse_config({**base, **given}, EvalConfig, "command line")


def table(metrics: Metrics) -> list[str]:
    """The numbers as lines to read: the twelve, then AP and AP50 of each class."""
    lines = [f"{metrics.images} pictures, {metrics.detections} detections, {metrics.evaluator}", ""]
    lines += [f"{name:<6} {_shown(metrics[name])}  {meaning}" for name, meaning in MEANINGS.items()]
    width = max((len(name) for name in metrics.per_class), default=0)
    lines += ["", f"{'class':<{width}}     AP   AP50"]
    return lines + [
        f"{name:<{width}}  {_shown(of_class['AP'])} {_shown(of_class['AP50'])}"
        for name, of_class in metrics.per_class.items()
    ]


def _shown(number: float | None) -> str:
    return "    --" if number is None else f"{number:6.4f}"
