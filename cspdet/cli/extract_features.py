"""Extract the features of a backbone from images, for search, clustering or another classifier.

  cspdet extract-features runs/csppeleenet/best.pt photos --output photos.npz
  cspdet extract-features runs/csppelee_efm_sam/best.pt photos --output maps --layer maps --size 416

MODEL is a classifier or a detector; its backbone is used. FILE.npz has the array `names`, the paths of the images, and
the array `features` of shape (images, channels). With --layer maps, FILE.npz has one array per stride instead of
`features`, such as `stride8`, of shape (images, channels, height, width). If --output is a folder, one file per image
is written instead: NAME.npy or NAME.npz.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.cli.arguments import (
    add_device_argument,
    add_model_options,
    check_model,
    check_weights,
    model_file,
    parse_image_size,
    print_lines,
)
from cspdet.cli.classify import find_image_files
from cspdet.cli.eval_classifier import add_crop_arguments, eval_config_from_args
from cspdet.errors import ConfigError, SourceError, check_all, truncate_list
from cspdet.io.names import count

if TYPE_CHECKING:
    from cspdet.datasets.classification.crops import ImageCrop
    from cspdet.inference.sources import ImageFile
    from cspdet.models.bundle import ModelBundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `extract-features`."""
    parser.add_argument(
        "model", type=model_file, metavar="MODEL", help="a checkpoint, a run folder, or a config with --weights"
    )
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="images, folders or 'globs'")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="FILE.npz, or a folder")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained weights for a config")
    parser.add_argument(
        "--layer", choices=("pooled", "maps"), default="pooled",
        help="pooled: global average of the coarsest feature map; maps: all feature maps (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--size", type=parse_image_size, metavar="HxW", help="input size (default: that of the model)")
    add_crop_arguments(parser, ten_crop=False)
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="images per forward pass (default: %(default)s)"
    )
    add_device_argument(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> None:
    """Extract the features, write them, and print a summary. Ctrl-C stops early and keeps the finished images."""
    images = _validate_args(args)
    from cspdet.checkpoints.loading import load_model
    from cspdet.device import select_device
    from cspdet.inference.feature_extractor import FeatureExtractor, check_feature_outputs

    check_feature_outputs(args.output, images, maps=args.layer == "maps")
    device = select_device(args.device)
    overrides = [*args.overrides, *([] if args.size is None else [f"input.size={list(args.size)}"])]
    bundle = load_model(args.model, weights=args.weights, overrides=overrides)
    extractor = FeatureExtractor(bundle, device, _crop(args, bundle), maps=args.layer == "maps")
    if args.output.suffix == ".npz":
        extractor.check_file_size(len(images))
        num_written = extractor.write_file(args.output, images, args.batch_size)
    else:
        num_written = extractor.write_folder(args.output, images, args.batch_size)
    print_lines([f"{count(num_written, 'image')}, {extractor.description}; written to {args.output}"])
    if extractor.problems:
        raise SourceError(*truncate_list(extractor.problems))


def _validate_args(args: argparse.Namespace) -> list[ImageFile]:
    """Check the values of the arguments and the model file.

    Raises:
        ConfigError: Values are invalid; the message lists all of them.
        CheckpointError: The model file does not exist.
    """
    problems = [] if args.batch_size >= 1 else [f"--batch-size: expected 1 or more, found {args.batch_size}"]
    if args.output.suffix not in (".npz", "") and not args.output.is_dir():
        problems.append(f"--output: expected FILE.npz or a folder, found {str(args.output)!r}")
    if problems:
        raise ConfigError(*problems)
    *_, images = check_all(
        lambda: check_model(args.model, args.overrides),
        lambda: check_weights(args.weights),
        lambda: find_image_files(args.source),
    )
    return list(images)


def _crop(args: argparse.Namespace, bundle: ModelBundle) -> ImageCrop:
    """Return the crop of the images: for a classifier the crop of its `eval` section, else the largest center crop."""
    from cspdet.datasets.classification.crops import build_image_crop
    from cspdet.models.config import ClassifierEvalConfig

    base = bundle.config.eval if bundle.task == "classification" else ClassifierEvalConfig(crop=1.0)
    settings = eval_config_from_args(args, base).model_copy(update={"ten_crop": False})
    return build_image_crop(bundle.config.input, settings, args.interpolation)


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("extract-features"))
