"""Run a detector on images and videos, or a classifier on images, depending on MODEL.

  cspdet predict runs/csppelee_efm_sam/best.pt street.jpg
  cspdet predict runs/csppeleenet/best.pt photos --top 5 --output photos.jsonl

For a detector, the command does the same as `cspdet detect`; for a classifier, the same as `cspdet classify`. The help
of these commands describes the outputs.
"""

from __future__ import annotations

import argparse

from cspdet.cli import classify, detect
from cspdet.cli.arguments import check_model, check_weights
from cspdet.cli.eval_classifier import add_crop_arguments
from cspdet.errors import ConfigError, check_all

CLASSIFIER_FLAGS = ("top", "resize", "crop", "ten_crop", "interpolation")
COMMON_FLAGS = (
    "model", "source", "weights", "output", "batch_size", "device", "json", "overrides", "user_modules", "notes",
    "threads", "log_level",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `predict`: all arguments of `detect` and of `classify`."""
    detect.add_arguments(parser)
    group = parser.add_argument_group("classifiers")
    group.add_argument(
        "--top", type=int, default=1, metavar="K", help="number of classes per image (default: %(default)s)"
    )
    add_crop_arguments(group)


def run(args: argparse.Namespace) -> None:
    """Load the model, and run `detect` for a detector or `classify` for a classifier."""
    detect.validate_args(args)
    from cspdet.inference.sources import find_all_sources

    *_, sources = check_all(
        lambda: check_model(args.model, args.overrides),
        lambda: check_weights(args.weights),
        lambda: find_all_sources(args.source),
    )
    from cspdet.checkpoints.loading import load_model

    bundle = load_model(args.model, weights=args.weights, overrides=args.overrides, backend=args.backend)
    if bundle.task == "classification":
        _reject_flags(
            args, [flag for flag in vars(args) if flag not in (*CLASSIFIER_FLAGS, *COMMON_FLAGS)], "detectors"
        )
        classify.validate_args(args)
        classify.classify(args, bundle, classify.select_images(args.source, sources))
    else:
        _reject_flags(args, CLASSIFIER_FLAGS, "classifiers")
        detect.detect(args, bundle, detect.check_sources(args, sources))


def _reject_flags(args: argparse.Namespace, names: list[str] | tuple[str, ...], model_type: str) -> None:
    """Check that flags for the other type of model are not used.

    Args:
        args: The parsed arguments.
        names: Names of the flags that do not apply to the model.
        model_type: Models to which these flags apply, for the message: detectors or classifiers.

    Raises:
        ConfigError: A flag in `names` does not have its default value.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    problems = [
        f"--{name.replace('_', '-')}: is for {model_type}; {args.model} is not one"
        for name in names
        if getattr(args, name) != parser.get_default(name)
    ]
    if problems:
        raise ConfigError(*problems)


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("predict"))
