"""The classes of pictures: of a picture, a folder with its subfolders, or a 'glob'.

  cspdet classify runs/csppeleenet/best.pt bird.jpg --top 5
  cspdet classify runs/csppeleenet/best.pt photos --output photos.jsonl

Prints a line for each of the best classes: path, class, score. Pictures that cannot be read are told at the end.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch

from cspdet.checkpoints.loading import load_model
from cspdet.cli.eval_classifier import add_crop_arguments, eval_config_from_args
from cspdet.datasets.classification.crops import CropBatch, build_image_crop, iter_crops
from cspdet.device import select_device
from cspdet.errors import ConfigError, SourceError, truncate_list
from cspdet.inference.classifier import ClassifierPredictor, Prediction
from cspdet.inference.sources import ImageFile, find_sources
from cspdet.io.atomic import write_text
from cspdet.io.progress import progress
from cspdet.models.classifier import predict_probabilities

log = logging.getLogger("cspdet")

Record = dict[str, Any]  # of one picture, as --output and --json have it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `classify` takes."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, or a config with --weights")
    parser.add_argument("source", metavar="SOURCE", help="picture, folder or 'glob'")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="for a config: a checkpoint, or Darknet's .weights"
    )
    parser.add_argument("--top", type=int, default=1, metavar="K", help="classes a picture (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write a .json list or .jsonl lines")
    add_crop_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="pictures a pass; default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document, the list of all pictures")


def run(args: argparse.Namespace) -> None:
    """Classify every picture. Ctrl-C ends early and keeps what is done."""
    _validate_args(args)
    paths = [image.path for image in find_image_files(args.source)]
    device = select_device(args.device)
    bundle = load_model(args.model, weights=args.weights, overrides=args.overrides, task="classification")
    crop = build_image_crop(bundle.config.input, eval_config_from_args(args, bundle.config.eval), args.interpolation)
    classifier = ClassifierPredictor(bundle, device, crop)
    records: list[Record] = []
    problems: list[str] = []
    batches = iter_crops(paths, crop, args.batch_size)
    try:
        for crop_batch in progress(batches, "classifying", "batch", -(-len(paths) // args.batch_size)):
            problems += crop_batch.problems
            found = classify_crops(classifier, crop_batch, args.top)
            records += found
            if not args.json:
                print_predictions(found)
    finally:
        if args.output is not None:
            write_text(args.output, format_records(records, args.output.suffix))
        if args.json:
            print(json.dumps(records, ensure_ascii=False))
    if problems:
        raise SourceError(*truncate_list(problems))


def _validate_args(args: argparse.Namespace) -> None:
    problems = [
        f"--{name.replace('_', '-')}: expected 1 or more, found {getattr(args, name)}"
        for name in ("top", "batch_size")
        if getattr(args, name) < 1
    ]
    if args.output is not None and args.output.suffix not in (".json", ".jsonl"):
        problems.append(f"--output: expected a file named .json or .jsonl, found {str(args.output)!r}")
    if problems:
        raise ConfigError(*problems)


def find_image_files(source: str) -> list[ImageFile]:
    """The pictures that a SOURCE names, in the order of their paths; videos beside them are skipped, and told.

    Raises:
        SourceError: nothing there, or no picture.
    """
    found = find_sources(source)
    images = [one for one in found if isinstance(one, ImageFile)]
    others = [str(one) for one in found if not isinstance(one, ImageFile)]
    if not images:
        raise SourceError(f"{source}: expected a picture, or a folder or glob of pictures; found {others[0]}")
    if others:
        log.warning(
            "%s: only pictures are read here; videos skipped: %d, the first is %s", source, len(others), others[0]
        )
    return images


def classify_crops(classifier: ClassifierPredictor, crop_batch: CropBatch, top: int) -> list[Record]:
    """The records of a batch."""
    if not crop_batch.paths:
        return []
    scores = predict_probabilities(classifier.model, torch.from_numpy(crop_batch.images), classifier.device).cpu()
    return [
        {
            "source": str(path),
            "width": width,
            "height": height,
            "predictions": [
                {**best._asdict(), "score": round(best.score, 6)}
                for best in Prediction(classifier.class_names, probability).top(top)
            ],
        }
        for path, (height, width), probability in zip(crop_batch.paths, crop_batch.sizes_hw, scores, strict=True)
    ]


def print_predictions(records: list[Record]) -> None:
    """`path  class  score`, a line for each of the best classes."""
    for record in records:
        for best in record["predictions"]:
            print(f"{record['source']}  {best['class_name']}  {best['score']:.4f}")


def format_records(records: list[Record], suffix: str) -> str:
    """A JSON list, or a line of JSON a picture."""
    if suffix == ".json":
        return json.dumps(records, ensure_ascii=False, indent=1) + "\n"
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
