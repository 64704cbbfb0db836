"""How well the anchors of a config fit the boxes of a data set, and anchors by k-means that fit them better.

  cspdet anchors data/shapes.yaml --config configs/csppelee_efm.yaml
  cspdet anchors data/shapes.yaml --config configs/csppelee_efm.yaml --size 608 --seed 1

Boxes are measured in pixels of the network's input and compared with the anchors by the IoU of widths and heights, as
training does. There, each box goes to its best anchor whatever their IoU, and to every anchor above
train.assign.match_iou as well. Recall > T is the best possible recall: the share of boxes whose best anchor has an IoU
above T. Without --config: YOLOv3's nine anchors at 416x416. The command changes nothing; it prints the word that makes
`train` use the anchors it found.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cspdet.checkpoints.loading import build_detector
from cspdet.cli.arguments import input_size
from cspdet.config.loader import parse_config
from cspdet.darknet.model import DarknetModelConfig
from cspdet.datasets.descriptor import SPLITS, load_descriptor
from cspdet.datasets.detection.anchors import STRICT_IOU, AnchorFit, anchor_fit, input_box_wh, kmeans_anchors
from cspdet.datasets.formats.coco import CocoSet, load_coco
from cspdet.errors import ConfigError
from cspdet.models.head import WH, YoloHeadConfig
from cspdet.recipe import InputConfig, load_recipe

Levels = tuple[tuple[WH, ...], ...]  # width, height in input pixels, one tuple a scale, finest first
YOLOV3_STRIDES = (8, 16, 32)


class Given(NamedTuple):
    """What the anchors are fitted for."""

    name: str
    levels: Levels
    strides: tuple[int, ...]
    input: InputConfig
    match_iou: float | None
    in_cfg: bool  # the anchors stand in a Darknet cfg


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `anchors` takes."""
    parser.add_argument("descriptor", type=Path, metavar="DESCRIPTOR", help="the YAML file that names the splits")
    parser.add_argument("--config", type=Path, metavar="CONFIG", help="a detector's config, or the one of a run")
    parser.add_argument(
        "--size", type=input_size, metavar="HxW", help="input size (default: the config's own, else 416)"
    )
    parser.add_argument("--count", type=int, metavar="K", help="anchors to find (default: as many as the config has)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of k-means (default: %(default)s)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="whose boxes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")


def run(args: argparse.Namespace) -> None:
    """Compare, search, print."""
    given = _given(args)
    count = _count(args.count, given)
    if args.seed < 0:
        raise ConfigError(f"--seed: expected 0 or a number above it, found {args.seed}")
    descriptor = load_descriptor(args.descriptor)
    coco = load_coco(descriptor.split(args.split), args.split, allow_empty=True)
    box_wh = input_box_wh(coco, given.input)
    before = anchor_fit(box_wh, _flat(given.levels), given.match_iou)
    found = kmeans_anchors(box_wh, count, args.seed)
    after = anchor_fit(box_wh, found, given.match_iou)
    levels = _levels(found, len(given.levels))
    if args.json:
        print(json.dumps(_document(args, given, coco, (before, after), levels)))
    else:
        print("\n".join(_text(args, given, coco, (before, after), levels)))


def _given(args: argparse.Namespace) -> Given:
    size = args.size
    if args.config is None:
        if args.overrides:
            raise ConfigError(f"anchors: there is no --config that {args.overrides[0]!r} could override")
        input_ = parse_config({} if size is None else {"size": list(size)}, InputConfig, "--size")
        return Given("YOLOv3's anchors", YoloHeadConfig().anchors, YOLOV3_STRIDES, input_, None, False)
    at_size = [] if size is None else [f"input.size=[{size[0]}, {size[1]}]"]
    recipe = load_recipe(args.config, [*args.overrides, *at_size])
    anchors = build_detector(recipe, 1, str(args.config), pretrained=False).anchors
    levels = tuple(tuple((round(w, 4), round(h, 4)) for w, h in level) for level in anchors.wh.tolist())
    name, match_iou = f"{args.config.stem}'s anchors", recipe.train.assign.match_iou
    return Given(name, levels, anchors.strides, recipe.input, match_iou, isinstance(recipe.model, DarknetModelConfig))


def _count(wanted: int | None, given: Given) -> int:
    scales, own = len(given.levels), sum(map(len, given.levels))
    if wanted is None:
        return own
    if wanted < 1 or wanted % scales:
        raise ConfigError(f"--count: expected a multiple of {scales}, the head's scales, found {wanted}")
    if given.in_cfg and wanted != own:
        raise ConfigError(f"--count: the layers of a cfg are made for its {own} anchors, found {wanted}")
    return wanted


def _flat(levels: Levels) -> np.ndarray:
    return np.array([wh for level in levels for wh in level], np.float64)


def _levels(anchors_wh: np.ndarray, scales: int) -> Levels:
    """(K, 2) anchors, ascending by area, dealt to the scales: the smallest to the finest."""
    return tuple(tuple((w, h) for w, h in part) for part in np.split(anchors_wh, scales))


def override_word(levels: Levels) -> str:
    """The word of a command line that gives a head these anchors."""
    scales = ("[" + ",".join(f"[{w:g},{h:g}]" for w, h in level) + "]" for level in levels)
    return f"model.head.anchors=[{','.join(scales)}]"


def cfg_line(levels: Levels) -> str:
    """The line of a Darknet cfg's [yolo] sections."""
    return "anchors = " + ", ".join(f"{w:g},{h:g}" for level in levels for w, h in level)


def _document(
    args: argparse.Namespace, given: Given, coco: CocoSet, fits: tuple[AnchorFit, AnchorFit], levels: Levels
) -> dict[str, Any]:
    before, after = fits
    crowds = int(coco.box_crowd.sum())
    use = {"cfg": cfg_line(levels)} if given.in_cfg else {"override": override_word(levels)}
    return {
        "descriptor": str(args.descriptor),
        "split": args.split,
        "images": len(coco),
        "boxes": len(coco.box_crowd) - crowds,
        "crowds": crowds,
        "config": None if args.config is None else str(args.config),
        "size": list(given.input.size),
        "resize": given.input.resize,
        "match_iou": given.match_iou,
        "seed": args.seed,
        "strides": list(given.strides),
        "config_anchors": {"anchors": given.levels, **before.to_json()},
        "kmeans_anchors": {"anchors": levels, **after.to_json(), **use},
        "notes": list(coco.notes),
    }


def _text(
    args: argparse.Namespace, given: Given, coco: CocoSet, fits: tuple[AnchorFit, AnchorFit], levels: Levels
) -> list[str]:
    crowds = int(coco.box_crowd.sum())
    left_out = f", without {crowds} crowd{'' if crowds == 1 else 's'}," if crowds else ""
    way = {"letterbox": "letterboxed", "stretch": "stretched"}[given.input.resize]
    rows = [(given.name, given.levels, fits[0]), (f"k-means, {sum(map(len, levels))} anchors", levels, fits[1])]
    lines = [
        f"{args.split}: {len(coco.box_crowd) - crowds} boxes{left_out} of {len(coco)} pictures, {way} to "
        f"{given.input.size[0]}x{given.input.size[1]} (height x width)",
        *(f"note: {line}" for line in coco.notes),
        "",
        *_figures([(name, fit) for name, _, fit in rows], given.match_iou),
    ]
    for name, own, fit in rows:
        lines += ["", f"{name}, width x height, and the share of boxes that each fits best", *_scales(own, given, fit)]
    lines += ["", "to train with the anchors of k-means, "]
    if given.in_cfg:
        return [*lines[:-1], lines[-1] + "write into each [yolo] of the cfg", f"  {cfg_line(levels)}"]
    return [*lines[:-1], lines[-1] + "add to the command", f"  '{override_word(levels)}'"]


def _figures(rows: list[tuple[str, AnchorFit]], match_iou: float | None) -> list[str]:
    """A line for each set of anchors, below the names of the figures."""
    width = max(len(name) for name, _ in rows)
    at_match = "" if match_iou is None else f"  {f'recall > {match_iou:g}':>15}"
    strict = f"recall > {STRICT_IOU:g}"
    lines = [f"{'':<{width}}{at_match}  {strict:>14}  mean best IoU  anchors a box"]
    for name, fit in rows:
        recall = "" if fit.recall is None else f"  {fit.recall:>15.2%}"
        rest = f"  {fit.recall50:>14.2%}  {fit.mean_iou:>13.4f}  {fit.anchors_a_box:>13.2f}"
        lines.append(f"{name:<{width}}{recall}{rest}")
    return lines


def _scales(levels: Levels, given: Given, fit: AnchorFit) -> list[str]:
    shares, lines = iter(fit.share), []
    for stride, level in zip(given.strides, levels, strict=True):
        own = [(f"{w:g}x{h:g}", next(shares)) for w, h in level]
        words = "   ".join(f"{name:>11} {share:>6.1%}" for name, share in own)
        lines.append(f"  stride {stride:<3} {sum(share for _, share in own):>6.1%}:  {words}")
    return lines
