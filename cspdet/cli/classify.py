"""Classify images: files, folders with their subfolders, or 'globs'.

  cspdet classify runs/csppeleenet/best.pt bird.jpg --top 5
  cspdet classify runs/csppeleenet/best.pt photos --output photos.jsonl

Prints one line per predicted class: path, class, score. Unreadable images are reported at the end.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cspdet.cli.arguments import (
    add_device_argument,
    add_model_options,
    check_model,
    check_weights,
    model_file,
    print_lines,
)
from cspdet.cli.eval_classifier import add_crop_arguments, eval_config_from_args
from cspdet.errors import ConfigError, SourceError, check_all, truncate_list
from cspdet.io.atomic import write_text
from cspdet.io.outputs import PREDICTIONS_JSON, OutputFile, check_outputs

if TYPE_CHECKING:
    from cspdet.datasets.classification.crops import CropBatch
    from cspdet.inference.classifier import ClassifierPredictor
    from cspdet.inference.sources import ImageFile, MediaSource
    from cspdet.models.bundle import ModelBundle

log = logging.getLogger("cspdet")

Record = dict[str, Any]  # the entry of one image in --output and --json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `classify`."""
    parser.add_argument(
        "model", type=model_file, metavar="MODEL", help="a checkpoint, a run folder, or a config with --weights"
    )
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="images, folders or 'globs'")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="for a config: a checkpoint, or Darknet's .weights"
    )
    parser.add_argument(
        "--top", type=int, default=1, metavar="K", help="number of classes per image (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also write the predictions to a .json or .jsonl file"
    )
    add_crop_arguments(parser)
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="images per forward pass (default: %(default)s)"
    )
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document, the list of all images")
    add_model_options(parser)


def run(args: argparse.Namespace) -> None:
    """Classify every image. After Ctrl-C, the predictions made so far are still written."""
    validate_args(args)
    *_, images = check_all(
        lambda: check_model(args.model, args.overrides),
        lambda: check_weights(args.weights),
        lambda: find_image_files(args.source),
    )
    from cspdet.checkpoints.loading import load_model

    bundle = load_model(args.model, weights=args.weights, overrides=args.overrides, task="classification")
    classify(args, bundle, images)


def classify(args: argparse.Namespace, bundle: ModelBundle, images: Sequence[ImageFile]) -> None:
    """Classify images with a loaded classifier, and print and write the predictions."""
    from cspdet.datasets.classification.crops import build_image_crop, iter_crops
    from cspdet.device import select_device
    from cspdet.inference.classifier import ClassifierPredictor
    from cspdet.io.progress import progress

    paths = [image.path for image in images]
    crop = build_image_crop(bundle.config.input, eval_config_from_args(args, bundle.config.eval), args.interpolation)
    classifier = ClassifierPredictor(bundle, select_device(args.device), crop)
    records: list[Record] = []
    problems: list[str] = []
    batches = iter_crops(paths, crop, args.batch_size)
    if args.json:  # without, the lines of the images show the progress
        batches = progress(batches, "classifying", "batch", -(-len(paths) // args.batch_size))
    try:
        for crop_batch in batches:
            problems += crop_batch.problems
            batch_records = classify_crops(classifier, crop_batch, args.top)
            records += batch_records
            if not args.json:
                print_predictions(batch_records)
    finally:
        if args.output is not None and (records or not args.output.exists()):
            write_text(args.output, format_records(records, args.output.suffix))
        if args.json:
            print(json.dumps(records, ensure_ascii=False))
    if problems:
        raise SourceError(*truncate_list(problems))


def validate_args(args: argparse.Namespace) -> None:
    """Check the values of the arguments.

    Raises:
        ConfigError: Values are invalid; the message lists all of them.
        UserError: The output would replace a file that cspdet did not write.
    """
    problems = [
        f"--{name.replace('_', '-')}: expected 1 or more, found {getattr(args, name)}"
        for name in ("top", "batch_size")
        if getattr(args, name) < 1
    ]
    if args.output is not None and args.output.suffix not in (".json", ".jsonl"):
        problems.append(f"--output: expected a file named .json or .jsonl, found {str(args.output)!r}")
    if problems:
        raise ConfigError(*problems)
    if args.output is not None:
        check_outputs([OutputFile(args.output, PREDICTIONS_JSON)], (args.model, args.weights))


def find_image_files(sources: Sequence[str]) -> list[ImageFile]:
    """Return the images of the SOURCE arguments. Videos are skipped with a warning.

    The arguments keep their order. The images of one argument are sorted by path.

    Raises:
        SourceError: No file matches, or none of the files is an image.
    """
    from cspdet.inference.sources import find_all_sources

    return select_images(sources, find_all_sources(sources))


def select_images(sources: Sequence[str], found: Sequence[MediaSource]) -> list[ImageFile]:
    """Return the images among `found`, the files of the SOURCE arguments. Videos are skipped with a warning.

    Raises:
        SourceError: There is no image.
    """
    from cspdet.inference.sources import ImageFile

    source = ", ".join(sources[:3])
    images = [item for item in found if isinstance(item, ImageFile)]
    others = [str(item) for item in found if not isinstance(item, ImageFile)]
    if not images:
        raise SourceError(f"{source}: expected an image, or a folder or glob of images; found {others[0]}")
    if others:
        log.warning(
            "%s: only images are supported; videos skipped: %d, the first is %s", source, len(others), others[0]
        )
    return images


def classify_crops(classifier: ClassifierPredictor, crop_batch: CropBatch, top: int) -> list[Record]:
    """Classify a batch of crops and return one output record per image."""
    import torch

    from cspdet.inference.prediction import Prediction
    from cspdet.models.classifier import predict_probabilities

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
    """Print one line `path  class  score` per predicted class."""
    for record in records:
        for best in record["predictions"]:
            print_lines([f"{record['source']}  {best['class_name']}  {best['score']:.4f}"])


def format_records(records: list[Record], suffix: str) -> str:
    """Format records as a JSON list (suffix .json) or as one line of JSON per image (suffix .jsonl)."""
    if suffix == ".json":
        return json.dumps(records, ensure_ascii=False, indent=1) + "\n"
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("classify"))
