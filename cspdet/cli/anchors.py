"""Measure how well the anchors of a config fit the boxes of a dataset, and compute better anchors with k-means.

  cspdet anchors data/shapes/shapes.yaml --config csppelee_efm
  cspdet anchors data/shapes/shapes.yaml --config csppelee_efm --size 608 --seed 1

Boxes are scaled to the input size and compared with the anchors by the IoU of widths and heights, as in training.
Training assigns each box to its best anchor, even if the IoU is low, and to every anchor with an IoU above
train.assigner.match_iou. In the output, `recall > T` is the best possible recall: the fraction of boxes whose best
anchor has an IoU above T. Without --config, the nine anchors of YOLOv3 at 416x416 are used. The command changes no
file; it prints the override that makes `train` use the new anchors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cspdet.cli.arguments import SPLITS, parse_image_size, print_lines
from cspdet.config.loader import parse_config
from cspdet.errors import ConfigError, check_all
from cspdet.io.names import count
from cspdet.io.tables import Table
from cspdet.models.config import WH, YoloHeadConfig

if TYPE_CHECKING:
    import numpy as np

    from cspdet.config.input import InputConfig
    from cspdet.datasets.detection.anchors import AnchorFit
    from cspdet.datasets.formats.coco import CocoDataset

Levels = tuple[tuple[WH, ...], ...]  # width, height in input pixels; one tuple per scale, finest first
YOLOV3_STRIDES = (8, 16, 32)


class AnchorSetup(NamedTuple):
    """The current anchors, and the input config of the network that uses them."""

    name: str
    levels: Levels
    strides: tuple[int, ...]
    input: InputConfig
    match_iou: float | None
    in_cfg: bool  # whether the anchors are in a Darknet cfg


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anchors`."""
    parser.add_argument(
        "descriptor", type=Path, metavar="DESCRIPTOR", help="data descriptor: YAML file with the splits"
    )
    parser.add_argument("--config", type=Path, metavar="CONFIG", help="config of a detector, or config.yaml of a run")
    parser.add_argument(
        "--size", type=parse_image_size, metavar="HxW", help="input size (default: `input.size` of the config, or 416)"
    )
    parser.add_argument("--count", type=int, metavar="K", help="number of anchors (default: as many as the config has)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of k-means (default: %(default)s)")
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="split whose boxes are used (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")


def run(args: argparse.Namespace) -> None:
    """Evaluate the current anchors, compute new ones, and print both."""
    from cspdet.datasets.descriptor import load_dataset_config
    from cspdet.datasets.detection.anchors import box_sizes_at_input, evaluate_anchors, kmeans_anchors
    from cspdet.datasets.formats.coco import load_coco

    check_all(lambda: load_dataset_config(args.descriptor), lambda: _load_setup(args))
    setup = _load_setup(args)
    count = _resolve_count(args.count, setup)
    if args.seed < 0:
        raise ConfigError(f"--seed: expected 0 or more, found {args.seed}")
    descriptor = load_dataset_config(args.descriptor)
    coco = load_coco(descriptor.split(args.split), args.split, allow_empty=True)
    box_wh = box_sizes_at_input(coco, setup.input)
    before = evaluate_anchors(box_wh, _flatten(setup.levels), setup.match_iou)
    anchors_wh = kmeans_anchors(box_wh, count, args.seed)
    after = evaluate_anchors(box_wh, anchors_wh, setup.match_iou)
    levels = _split_levels(anchors_wh, len(setup.levels))
    if args.json:
        print(json.dumps(_document(args, setup, coco, (before, after), levels)))
    else:
        print_lines(_text(args, setup, coco, (before, after), levels))


def _load_setup(args: argparse.Namespace) -> AnchorSetup:
    from cspdet.checkpoints.building import build_detector
    from cspdet.config.input import InputConfig
    from cspdet.darknet.config import DarknetModelConfig
    from cspdet.recipe import load_recipe

    size = args.size
    if args.config is None:
        if args.overrides:
            raise ConfigError(f"anchors: there is no --config that {args.overrides[0]!r} could override")
        input_ = parse_config({} if size is None else {"size": list(size)}, InputConfig, "--size")
        return AnchorSetup("YOLOv3's anchors", YoloHeadConfig().anchors, YOLOV3_STRIDES, input_, None, False)
    at_size = [] if size is None else [f"input.size=[{size[0]}, {size[1]}]"]
    recipe = load_recipe(args.config, [*args.overrides, *at_size], task="detection")
    anchors = build_detector(recipe, 1, str(args.config), pretrained=False).anchors
    levels = tuple(tuple((round(w, 4), round(h, 4)) for w, h in level) for level in anchors.wh.tolist())
    name, match_iou = f"{args.config.stem}'s anchors", getattr(recipe.train.assigner, "match_iou", None)
    return AnchorSetup(
        name, levels, anchors.strides, recipe.input, match_iou, isinstance(recipe.model, DarknetModelConfig)
    )


def _resolve_count(requested: int | None, setup: AnchorSetup) -> int:
    scales, current = len(setup.levels), sum(map(len, setup.levels))
    if requested is None:
        return current
    if requested < 1 or requested % scales:
        raise ConfigError(
            f"--count: expected a multiple of {scales}, the number of scales of the head, found {requested}"
        )
    if setup.in_cfg and requested != current:
        raise ConfigError(
            f"--count: expected {current}, because the layers of the cfg fix the number of anchors, found {requested}"
        )
    return requested


def _flatten(levels: Levels) -> np.ndarray:
    import numpy as np

    return np.array([wh for level in levels for wh in level], np.float64)


def _split_levels(anchors_wh: np.ndarray, scales: int) -> Levels:
    """Split (K, 2) anchors, sorted by area, into one group per scale; the finest scale gets the smallest anchors."""
    import numpy as np

    return tuple(tuple((w, h) for w, h in part) for part in np.split(anchors_wh, scales))


def format_override(levels: Levels) -> str:
    """Return the `key=value` override that sets the anchors of a head."""
    scales = ("[" + ",".join(f"[{w:g},{h:g}]" for w, h in level) + "]" for level in levels)
    return f"model.head.anchors=[{','.join(scales)}]"


def format_cfg_line(levels: Levels) -> str:
    """Return the `anchors = ...` line for the [yolo] sections of a Darknet cfg."""
    return "anchors = " + ", ".join(f"{w:g},{h:g}" for level in levels for w, h in level)


def _document(
    args: argparse.Namespace, setup: AnchorSetup, coco: CocoDataset, fits: tuple[AnchorFit, AnchorFit], levels: Levels
) -> dict[str, Any]:
    before, after = fits
    crowds = int(coco.box_crowd.sum())
    use = {"cfg": format_cfg_line(levels)} if setup.in_cfg else {"override": format_override(levels)}
    return {
        "descriptor": str(args.descriptor),
        "split": args.split,
        "images": len(coco),
        "boxes": len(coco.box_crowd) - crowds,
        "crowds": crowds,
        "config": None if args.config is None else str(args.config),
        "size": list(setup.input.size),
        "resize": setup.input.resize,
        "match_iou": setup.match_iou,
        "seed": args.seed,
        "strides": list(setup.strides),
        "config_anchors": {"anchors": setup.levels, **before.to_json()},
        "kmeans_anchors": {"anchors": levels, **after.to_json(), **use},
        "notes": list(coco.warnings),
    }


def _text(
    args: argparse.Namespace, setup: AnchorSetup, coco: CocoDataset, fits: tuple[AnchorFit, AnchorFit], levels: Levels
) -> list[str | Table]:
    crowds = int(coco.box_crowd.sum())
    left_out = f", without {count(crowds, 'crowd')}," if crowds else ""
    resize_verb = {"letterbox": "letterboxed", "stretch": "stretched"}[setup.input.resize]
    rows = [(setup.name, setup.levels, fits[0]), (f"k-means, {sum(map(len, levels))} anchors", levels, fits[1])]
    lines: list[str | Table] = [
        f"{args.split}: {count(len(coco.box_crowd) - crowds, 'box')}{left_out} of {count(len(coco), 'image')}, "
        f"{resize_verb} to {setup.input.size[0]}x{setup.input.size[1]} (height x width)",
        *(f"note: {line}" for line in coco.warnings),
        "",
        _fit_table([(name, fit) for name, _, fit in rows], setup.match_iou),
    ]
    for name, anchor_levels, fit in rows:
        lines += [
            "",
            f"{name}, width x height, and the fraction of boxes that each anchor fits best",
            _scale_table(anchor_levels, setup, fit),
        ]
    how, text = ("add to the command", f"'{format_override(levels)}'")
    if setup.in_cfg:
        how, text = "write into each [yolo] section of the cfg", format_cfg_line(levels)
    return [*lines, "", f"to train with the anchors of k-means, {how}", f"  {text}"]


def _fit_table(rows: list[tuple[str, AnchorFit]], match_iou: float | None) -> Table:
    from cspdet.datasets.detection.anchors import STRICT_IOU

    at_match = [] if match_iou is None else [f"recall > {match_iou:g}"]
    columns = ("anchors", *at_match, f"recall > {STRICT_IOU:g}", "mean best IoU", "anchors/box")
    cells = [
        [name, *([] if fit.recall is None else [f"{fit.recall:.2%}"]), f"{fit.recall50:.2%}", f"{fit.mean_iou:.4f}",
         f"{fit.anchors_per_box:.2f}"]
        for name, fit in rows
    ]  # fmt: skip
    return Table(columns, cells)


def _scale_table(levels: Levels, setup: AnchorSetup, fit: AnchorFit) -> Table:
    """Return a table with a row per stride: each anchor and the fraction of boxes that it fits best."""
    fractions, rows = iter(fit.best_match_fraction), []
    for stride, level in zip(setup.strides, levels, strict=True):
        level_fractions = [(f"{w:g}x{h:g}", next(fractions)) for w, h in level]
        cells = (text for name, fraction in level_fractions for text in (name, f"{fraction:.1%}"))
        rows.append([str(stride), f"{sum(fraction for _, fraction in level_fractions):.1%}", *cells])
    names = (text for i in range(len(levels[0])) for text in (f"anchor {i + 1}", "boxes"))
    return Table(("stride", "all boxes", *names), rows)


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("anchors"))
