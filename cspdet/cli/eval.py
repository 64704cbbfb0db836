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
from typing import Any

import torch

from cspdet.checkpoints.loading import LoadedModel, load_model
from cspdet.config.loader import parse_config
from cspdet.datasets.descriptor import load_descriptor
from cspdet.datasets.formats.coco import CocoSet, load_coco
from cspdet.device import pick_device
from cspdet.errors import ConfigError
from cspdet.evaluation.coco import Metrics, Result, evaluate_results
from cspdet.evaluation.coco_backends import EVALUATORS, pick_engine
from cspdet.evaluation.detection import evaluate_engine, evaluate_model, match_classes
from cspdet.evaluation.ground_truth import read_truth
from cspdet.evaluation.records import to_records
from cspdet.evaluation.results import clip_results, cut_results, read_results
from cspdet.evaluation.submission import check_algorithm, submission_name, write_submission
from cspdet.evaluation.voc import VocMetrics, judge_voc
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.exported import is_exported
from cspdet.inference.engines.factory import BACKENDS, engine_of, load_engine
from cspdet.io.atomic import write_text
from cspdet.io.folders import free_folder
from cspdet.recipe import EvalConfig, Recipe
from cspdet.structures import Classes

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
VOC_IOU = 0.5


@dataclass(frozen=True)
class _Judged:
    """What one run of eval found out."""

    coco: CocoSet
    metrics: Metrics
    results: list[Result]
    about: dict[str, Any]  # the model and its input size


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
    parser.add_argument("--max-iou", type=float, metavar="T", help="NMS: the highest overlap that stays (default: 0.6)")
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
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


def run(args: argparse.Namespace) -> None:
    """Evaluate, print, and leave metrics.json and detections.json in the output folder."""
    _check(args)
    judged = _judge_file(args) if args.model is None else _judge_model(args)
    metrics, voc = judged.metrics, _voc(args, judged)
    document = {**metrics.to_json(), **judged.about, **({} if voc is None else {"voc": voc.to_json()})}
    nothing_to_find = all(number is None for number in metrics.numbers.values())
    output = args.output or free_folder(Path("runs/eval"))
    written = ["metrics.json", "detections.json"]
    write_text(output / "detections.json", json.dumps(judged.results))
    write_text(output / "metrics.json", json.dumps(document, indent=2) + "\n")
    if nothing_to_find and args.split == "test":
        name = submission_name(judged.coco.files.annotations, args.name or "cspdet")
        written.append(write_submission(output, name, judged.results).name)
    if args.json:
        print(json.dumps(document))
        return
    lines = _nothing_to_judge(judged) if nothing_to_find else table(metrics, voc)
    print("\n".join(lines))
    print(f"\nwritten to {output}: {', '.join(written)}")
    if len(written) > 2:
        print(f"for COCO's evaluation server: {output / written[-1]}")


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be done before anything slow is done."""
    if (args.model is None) == (args.detections is None):
        raise ConfigError("eval: expected either a MODEL or --detections FILE" + (", found both" if args.model else ""))
    if args.detections is not None:
        _check_file_options(args)
    if args.voc_iou is not None and not 0 < args.voc_iou <= 1:
        raise ConfigError(f"--voc-iou: expected more than 0 and at most 1, found {args.voc_iou:g}")
    if args.name is not None:
        check_algorithm(args.name)
        if args.split != "test":
            raise ConfigError(f"--name: names the zip that --split test writes, found --split {args.split}")


def _check_file_options(args: argparse.Namespace) -> None:
    """Refuse what would change nothing about a results file, rather than pass over it."""
    reasons = {
        "vote_iou": "a results file holds no more of the boxes that vote",
        "max_iou": "a results file has been through NMS",
        "weights": "a results file has no network",
        "backend": "a results file has no network",
    }
    for name, reason in reasons.items():
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: {reason}; expected a MODEL")


def _judge_model(args: argparse.Namespace) -> _Judged:
    device = pick_device(args.device)
    if is_exported(args.model):
        return _judge_engine(args, _exported(args, device), None)
    loaded: LoadedModel = load_model(args.model, weights=args.weights, overrides=args.overrides)
    if args.backend is not None or args.precision != "fp32":
        engine = engine_of(loaded, device, backend=args.backend or "torch", precision=args.precision)
        return _judge_engine(args, engine, loaded.recipe)
    eval_ = _limits(args, loaded.recipe.eval.model_dump(mode="json"))
    coco, order = _data(args, loaded.recipe.data, loaded.classes)
    input_ = loaded.recipe.input
    metrics, results = evaluate_model(loaded.model.to(device), coco, input_, eval_, device, class_order=order)
    return _Judged(coco, metrics, results, {"model": loaded.name, "size": list(input_.size)})


def _exported(args: argparse.Namespace, device: torch.device) -> Engine:
    if args.data is None:
        raise ConfigError(f"{args.model}: an exported file does not name any data; expected --data DESCRIPTOR")
    return load_engine(
        args.model, weights=args.weights, overrides=args.overrides, backend=args.backend or "auto",
        precision=args.precision, device=device,
    )  # fmt: skip


def _judge_engine(args: argparse.Namespace, engine: Engine, recipe: Recipe | None) -> _Judged:
    """A network that another program runs, or ours in another precision; `recipe` is None for an exported file."""
    engine.check_voting(args.vote_iou)
    eval_ = _limits(args, engine.facts.eval.model_dump(mode="json"))
    coco, order = _data(args, None if recipe is None else recipe.data, engine.classes)
    metrics, results = evaluate_engine(engine, coco, eval_, class_order=order)
    about = {"model": engine.facts.name, "size": list(engine.size_hw), "backend": engine.name}
    return _Judged(coco, metrics, results, {**about, "precision": engine.precision})


def _data(args: argparse.Namespace, own: Path | None, classes: Classes) -> tuple[CocoSet, tuple[int, ...] | None]:
    """The split to judge on, and the index in it of each class of the model, where that differs."""
    descriptor = args.data or own
    assert descriptor is not None
    coco = load_coco(load_descriptor(descriptor).split(args.split), args.split, allow_empty=args.split == "test")
    return coco, match_classes(classes, coco.classes, str(coco.files.annotations))


def _judge_file(args: argparse.Namespace) -> _Judged:
    if args.data is None:
        raise ConfigError("eval --detections: --data DESCRIPTOR is missing, which says what to compare with")
    if args.overrides:
        raise ConfigError(f"eval --detections: there is no config that {args.overrides[0]!r} could override")
    limits = _limits(args, {})
    pick_engine(limits.evaluator)
    descriptor = load_descriptor(args.data)
    files = getattr(descriptor, args.split)
    if files is None or not files.annotations.is_file():
        files = descriptor.split(args.split)  # tells what is missing; the pictures themselves may be
    coco = load_coco(files, args.split, allow_empty=True)
    results = cut_results(read_results(args.detections, coco), args.min_score, args.max_detections)
    if args.clip_boxes:
        results = clip_results(results, coco)
    metrics = evaluate_results(coco, results, evaluator=limits.evaluator)
    return _Judged(coco, metrics, results, {"model": None, "size": None})


def _limits(args: argparse.Namespace, base: dict[str, Any]) -> EvalConfig:
    """The eval section of a config, with what was given on the command line."""
    given = {name: getattr(args, name) for name in EvalConfig.model_fields if getattr(args, name) is not None}
    return parse_config({**base, **given}, EvalConfig, "command line")


def _voc(args: argparse.Namespace, judged: _Judged) -> VocMetrics | None:
    """VOC's AP, if it was asked for."""
    if not args.voc and args.voc_iou is None and args.voc_pixels is None:
        return None
    classes = judged.coco.classes
    return judge_voc(
        classes.names,
        classes.category_ids,
        read_truth(judged.coco),
        to_records(judged.results),
        min_iou=VOC_IOU if args.voc_iou is None else args.voc_iou,
        pixel_inclusive=args.voc_pixels != "continuous",
    )


def _nothing_to_judge(judged: _Judged) -> list[str]:
    metrics = judged.metrics
    counts = f"{metrics.images} pictures, {metrics.detections} detections"
    return [f"{counts}; {judged.coco.files.annotations} has no boxes to find, so there is no AP to tell"]


def table(metrics: Metrics, voc: VocMetrics | None = None) -> list[str]:
    """The numbers as lines to read: the twelve, then AP and AP50 of each class, beside VOC's two where there are."""
    lines = [f"{metrics.images} pictures, {metrics.detections} detections, {metrics.evaluator}", ""]
    lines += [f"{name:<6} {_shown(metrics[name])}  {meaning}" for name, meaning in MEANINGS.items()]
    if voc is not None:
        eleven, every = (None, None) if voc.mean is None else voc.mean
        lines += ["", f"VOC AP at IoU {voc.min_iou:g}: {_shown(eleven)} 11-point, {_shown(every)} every-point"]
    width = max(len(name) for name in ("class", *metrics.per_class))
    lines += ["", f"{'class':<{width}}      AP   AP50" + ("" if voc is None else "  11-point every-point")]
    for name, of_class in metrics.per_class.items():
        line = f"{name:<{width}}  {_shown(of_class['AP'])} {_shown(of_class['AP50'])}"
        if voc is not None:
            eleven, every = voc.per_class[name] or (None, None)
            line += f"    {_shown(eleven)}      {_shown(every)}"
        lines.append(line)
    return lines


def _shown(number: float | None) -> str:
    return "    --" if number is None else f"{number:6.4f}"
