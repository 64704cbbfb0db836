"""Convert Darknet weights to a checkpoint, given their cfg or the config (.yaml) of the same network.

  cspdet import-darknet yolov4-tiny.cfg yolov4-tiny.weights --output yolov4-tiny.pt --names coco.names
  cspdet import-darknet cspresnext50_panet_spp csresnext50-panet-spp_final.weights --output csp.pt

Every command accepts the checkpoint as MODEL. The number of values in the weights file must equal the number of weights
of the network.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.cli.arguments import check_weights, print_lines
from cspdet.errors import ConfigError, check_all
from cspdet.io.names import count
from cspdet.io.outputs import IMPORTED, OutputFile, check_outputs

if TYPE_CHECKING:
    from cspdet.checkpoints.darknet_import import ImportedModel

DARKNET_THRESHOLDS = "a score threshold of 0.005 and --nms-iou 0.45 (its COCO tables: 0.001 and 0.6)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `import-darknet`."""
    parser.add_argument("cfg", type=Path, metavar="CFG", help="a Darknet cfg, or a config (.yaml)")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="the .weights file of the cfg")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the checkpoint to write (.pt)")
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="class names, one per line (default: COCO, VOC, or numbers)"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="accept a file with only the first layers (.conv.N), as initial weights for training",
    )
    parser.add_argument(
        "--bn-eps",
        type=float,
        metavar="E",
        help="epsilon of the batch norms of a cfg (default: 1e-5, as in Darknet; OpenCV uses 1e-6)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> None:
    """Build the network, read the weights, write the checkpoint, and print a summary."""
    if args.output.suffix != ".pt":
        raise ConfigError(f"--output: expected a checkpoint's name (.pt), found {str(args.output)!r}")
    check_all(lambda: check_weights(args.cfg, ""), lambda: check_weights(args.weights, ""))
    check_outputs([OutputFile(args.output, IMPORTED)], (args.cfg, args.weights, args.names))

    from cspdet.checkpoints.darknet_import import import_darknet
    from cspdet.darknet.names import read_names
    from cspdet.io.checkpoint import save_checkpoint

    imported = import_darknet(
        args.cfg, args.weights, names=None if args.names is None else read_names(args.names), bn_eps=args.bn_eps,
        overrides=args.overrides, partial=args.partial,
    )  # fmt: skip
    save_checkpoint(args.output, imported.to_checkpoint())
    _print_summary(args, imported)


def _print_summary(args: argparse.Namespace, imported: ImportedModel) -> None:
    from cspdet.checkpoints.pretrained import has_backbone

    recipe, classes, model, load_result = imported
    model_type = "detector" if recipe.task == "detection" else "classifier"
    if args.json:
        print(json.dumps({
            "model": str(args.output), "kind": model_type, "size": list(recipe.input.size),
            "resize": recipe.input.resize, "classes": len(classes), "layers": load_result.num_layers,
            "filled": load_result.num_loaded, "numbers": load_result.num_values,
            "version": list(load_result.header[:3]), "seen": load_result.header.images_seen,
        }))  # fmt: skip
        return
    height, width = recipe.input.size
    of_all = "all" if load_result.num_loaded == load_result.num_layers else f"the first {load_result.num_loaded} of"
    print_lines([
        f"{args.output}: a {model_type} of {count(len(classes), 'class')} ({', '.join(classes.names[:3])}...), "
        f"{height}x{width}, {recipe.input.resize}; {load_result.num_values:,} values in {of_all} "
        f"{count(load_result.num_layers, 'layer')} with weights, "
        f"trained on {count(load_result.header.images_seen, 'image')}"
    ])  # fmt: skip
    if has_backbone(model) and recipe.input.resize != "stretch":
        print_lines(["Darknet stretches its images; for its results, import with input.resize=stretch"])
    if model_type == "detector":
        print_lines([f"Darknet's results use {DARKNET_THRESHOLDS}"])


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("import-darknet"))
