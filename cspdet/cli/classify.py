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

from cspdet.checkpoints.loading import load_classifier_model
from cspdet.cli.eval_classifier import add_crop_arguments, given_settings
from cspdet.datasets.classification.crop_reader import Views, read_views
from cspdet.device import pick_device
from cspdet.errors import ConfigError, SourceError, counted
from cspdet.inference.classifier import ClassifierPredictor, Prediction, image_crop, probabilities
from cspdet.inference.sources import PictureFile, find_sources
from cspdet.io.atomic import write_text
from cspdet.io.progress import progress

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
    _check(args)
    paths = [picture.path for picture in picture_files(args.source)]
    device = pick_device(args.device)
    loaded = load_classifier_model(args.model, weights=args.weights, overrides=args.overrides)
    crop = image_crop(loaded.recipe.input, given_settings(args, loaded.recipe.eval), args.interpolation)
    classifier = ClassifierPredictor(loaded, device, crop)
    records: list[Record] = []
    problems: list[str] = []
    batches = read_views(paths, crop, args.batch_size)
    try:
        for views in progress(batches, "classifying", "batch", -(-len(paths) // args.batch_size)):
            problems += views.problems
            found = classify_views(classifier, views, args.top)
            records += found
            if not args.json:
                print_lines(found)
    finally:
        if args.output is not None:
            write_text(args.output, as_text(records, args.output.suffix))
        if args.json:
            print(json.dumps(records, ensure_ascii=False))
    if problems:
        raise SourceError(*counted(problems))


def _check(args: argparse.Namespace) -> None:
    problems = [
        f"--{name.replace('_', '-')}: expected 1 or more, found {getattr(args, name)}"
        for name in ("top", "batch_size")
        if getattr(args, name) < 1
    ]
    if args.output is not None and args.output.suffix not in (".json", ".jsonl"):
        problems.append(f"--output: expected a file named .json or .jsonl, found {str(args.output)!r}")
    if problems:
        raise ConfigError(*problems)


def picture_files(source: str) -> list[PictureFile]:
    """The pictures that a SOURCE names, in the order of their paths; videos beside them are skipped, and told.

    Raises:
        SourceError: nothing there, or no picture.
    """
    found = find_sources(source)
    pictures = [one for one in found if isinstance(one, PictureFile)]
    others = [str(one) for one in found if not isinstance(one, PictureFile)]
    if not pictures:
        raise SourceError(f"{source}: expected a picture, or a folder or glob of pictures; found {others[0]}")
    if others:
        log.warning(
            "%s: only pictures are read here; videos skipped: %d, the first is %s", source, len(others), others[0]
        )
    return pictures


def classify_views(classifier: ClassifierPredictor, views: Views, top: int) -> list[Record]:
    """The records of a batch."""
    if not views.paths:
        return []
    shares = probabilities(classifier.model, torch.from_numpy(views.images), classifier.device).cpu()
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
        for path, (height, width), probability in zip(views.paths, views.sizes_hw, shares, strict=True)
    ]


def print_lines(records: list[Record]) -> None:
    """`path  class  score`, a line for each of the best classes."""
    for record in records:
        for best in record["predictions"]:
            print(f"{record['source']}  {best['class_name']}  {best['score']:.4f}")


def as_text(records: list[Record], suffix: str) -> str:
    """A JSON list, or a line of JSON a picture."""
    if suffix == ".json":
        return json.dumps(records, ensure_ascii=False, indent=1) + "\n"
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
