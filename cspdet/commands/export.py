"""Write a model in the form that other programs read: Darknet's cfg, weights and names.

  cspdet export runs/csppelee_efm_sam/best.pt --format darknet --output csppelee.cfg
  cspdet export configs/cspresnext50_panet_spp.yaml --weights best.pt --format darknet --size 608x608

The files are read back as Darknet reads them and compared with the model before they are left on disk.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from pathlib import Path

import torch

from cspdet.checkpoint import load_checkpoint, load_weights
from cspdet.config import load_config
from cspdet.darknet.names import classes_by_count
from cspdet.errors import CheckpointError, ConfigError, nearest
from cspdet.export.darknet import describe, write
from cspdet.model_cost import is_classifier
from cspdet.model_file import LoadedClassifier, LoadedModel, build_classifier, load_model, load_network
from cspdet.recipe import ClassifierRecipe

log = logging.getLogger("cspdet")

FORMATS = ("darknet",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `export` takes."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint, or a config with --weights")
    parser.add_argument("--format", required=True, metavar="F", help=f"what to write: {', '.join(FORMATS)}")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the .cfg; .weights and .names stand beside it "
        "(default: beside a checkpoint, of a config here)",
    )  # fmt: skip
    parser.add_argument("--size", type=_size, metavar="HxW", help="input size (default: the model's own)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained values for a config")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> None:
    """Load, describe, write, tell."""
    if args.format not in FORMATS:
        raise ConfigError(f"--format: unknown {args.format!r}{nearest(args.format, FORMATS)}; there is: darknet")
    if args.output is not None and args.output.suffix != ".cfg":
        raise ConfigError(f"--output: expected the name of a .cfg, found {str(args.output)!r}")
    loaded = _load(args)
    target = args.output or _beside(args.model)
    files = describe(loaded, args.size, str(args.model))
    written = write(files, loaded.model, target)
    if args.json:
        print(json.dumps({
            "files": [str(path) for path in written.paths], "size": list(files.size_hw), "classes": len(files.names),
            "numbers": written.numbers, "difference": written.difference,
        }))  # fmt: skip
        return
    height, width = files.size_hw
    print(
        f"{', '.join(str(path) for path in written.paths)}: {written.numbers:,} numbers for {height}x{width}; "
        f"read back, the outputs differ by {written.difference:.1e} of the largest"
    )


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not found or min(int(side) for side in found.groups()) < 1 or max(int(side) for side in found.groups()) > 8192:
        raise ConfigError(f"--size: expected HEIGHTxWIDTH such as 416x416, found {text!r}")
    return int(found.group(1)), int(found.group(2))


def _beside(model: Path) -> Path:
    return model.with_suffix(".cfg") if model.suffix == ".pt" else Path(f"{model.stem}.cfg")


def _load(args: argparse.Namespace) -> LoadedModel | LoadedClassifier:
    path = args.model
    if path.suffix not in (".yaml", ".yml"):
        if args.weights is not None:
            raise CheckpointError(f"{path}: a checkpoint brings its own weights; --weights goes with a config (.yaml)")
        return load_network(path, args.overrides)
    if args.weights is None:
        log.warning("%s: without --weights the network is written with random ones", path)
    if not is_classifier(path):
        return load_model(path, weights=args.weights, overrides=args.overrides)
    recipe = load_config(path, ClassifierRecipe, args.overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_classifier(recipe, str(path))
    classes = classes_by_count(model.classes)
    if args.weights is not None:
        checkpoint = load_checkpoint(args.weights)
        load_weights(model, checkpoint.weights, str(args.weights))
        classes = checkpoint.classes
    return LoadedClassifier(model.eval(), recipe, classes, path.stem)
