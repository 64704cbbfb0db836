"""What networks cost: parameters, BFLOPs, memory traffic, strides, beside the published figures.

  cspdet info configs/csppelee_efm.yaml configs/csppelee_efm_sam.yaml configs/classification/csppeleenet.yaml
  cspdet info runs/csppelee_efm_sam/best.pt --size 608x608 --layers

BFLOPs are Darknet's: 2 a multiply-add of convolutions and linear layers, and the window times the outputs of poolings.
A config counts for the 80 classes of COCO unless its own data is on disk.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

from cspdet.complexity import Cost, count
from cspdet.config import load_config, read_yaml
from cspdet.errors import ConfigError
from cspdet.model_file import check_size, load_model
from cspdet.models import Classifier, Detector
from cspdet.published import PUBLISHED
from cspdet.recipe import ClassifierRecipe

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `info` takes."""
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="configs and checkpoints")
    parser.add_argument("--size", type=_size, metavar="HxW", help="input size (default: the model's own)")
    parser.add_argument("--layers", action="store_true", help="every convolution, linear layer and pooling as well")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> None:
    """Count and print."""
    costs = [(path, *_count(path, args)) for path in args.models]
    rows = [_row(path, cost, strides) for path, cost, strides in costs]
    if args.json:
        layers = [{"layers": _layers(cost)} if args.layers else {} for _, cost, _ in costs]
        print(json.dumps([row | more for row, more in zip(rows, layers, strict=True)]))
        return
    print("\n".join(_table(rows)))
    if args.layers:
        for path, cost, _ in costs:
            print("\n".join(["", f"{path.stem}, layer by layer", *_layer_table(cost)]))


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise ConfigError(f"--size: expected HEIGHTxWIDTH such as 416x416, found {text!r}")
    return int(found.group(1)), int(found.group(2))


def _count(path: Path, args: argparse.Namespace) -> tuple[Cost, tuple[int, ...]]:
    model, size = _network(path, args.overrides)
    size = args.size or size
    check_size(size, model.strides, str(path))
    return count(model, size), model.strides


def _network(path: Path, overrides: list[str]) -> tuple[Detector | Classifier, tuple[int, int]]:
    """A classifier's config has no `data`; everything else is a detector."""
    if path.suffix in (".yaml", ".yml"):
        values, _ = read_yaml(path)
        if isinstance(values, dict) and isinstance(values.get("model"), dict) and "neck" not in values["model"]:
            recipe = load_config(path, ClassifierRecipe, overrides)
            with torch.device("meta"):
                return recipe.model.build(), recipe.input.size
    with torch.random.fork_rng(devices=[]):
        loaded = load_model(path, overrides=overrides)
    return loaded.model, loaded.recipe.input.size


def _row(path: Path, cost: Cost, strides: tuple[int, ...]) -> Row:
    published = PUBLISHED.get(path.stem)
    return {
        "model": path.stem,
        "size": list(cost.size_hw),
        "parameters": cost.parameters,
        "conv_weights": cost.conv_weights,
        "bflops": cost.bflops,
        "memory_traffic": cost.memory_traffic,
        "largest_layer_bflops": cost.largest_layer_bflops,
        "strides": list(strides),
        "published": published and published._asdict() | {"size": list(published.size)},
    }


def _layers(cost: Cost) -> list[Row]:
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "input": list(layer.input_chw),
            "output": list(layer.output_chw),
            "weights": layer.weights,
            "bflops": layer.operations / 1e9,
        }
        for layer in cost.layers
    ]


def _table(rows: list[Row]) -> list[str]:
    """One line a model: our figure, and below it the published one with the difference."""
    width = max(len(row["model"]) for row in rows)
    head = f"{'model':<{width}}  {'size':>9}  {'parameters':>11}  {'conv weights':>12}  {'BFLOPs':>8}"
    lines = [f"{head}  {'largest':>8}  {'traffic M':>9}  strides"]
    for row in rows:
        size = f"{row['size'][0]}x{row['size'][1]}"
        lines.append(
            f"{row['model']:<{width}}  {size:>9}  {row['parameters']:>11,}  {row['conv_weights']:>12,}  "
            f"{row['bflops']:>8.4f}  {row['largest_layer_bflops']:>8.4f}  {row['memory_traffic'] / 1e6:>9.2f}  "
            f"{' '.join(str(stride) for stride in row['strides'])}"
        )
        if row["published"] is not None:
            lines.append(_published_line(row, width))
    return lines


def _published_line(row: Row, width: int) -> str:
    printed = row["published"]
    weights = f"{printed['conv_weights'] / 1e6:.2f}M" if printed["conv_weights"] else ""
    size = f"{printed['size'][0]}x{printed['size'][1]}"
    line = f"{'  published':<{width}}  {size:>9}  {'':>11}  {weights:>12}  {printed['bflops']:>8}"
    if printed["size"] == row["size"]:
        line += f"  ({row['bflops'] / printed['bflops'] - 1:+.2%})"
    return f"{line}  {printed['source']}; {printed['network']}"


def _layer_table(cost: Cost) -> list[str]:
    width = max(len(layer.name) for layer in cost.layers)
    lines = [f"{'layer':<{width}}  {'kind':<6}  {'input':>12}  {'output':>12}  {'weights':>9}  {'BFLOPs':>7}"]
    for layer in cost.layers:
        taken, given = ("x".join(str(n) for n in shape) for shape in (layer.input_chw, layer.output_chw))
        lines.append(
            f"{layer.name:<{width}}  {layer.kind:<6}  {taken:>12}  {given:>12}  {layer.weights:>9,}  "
            f"{layer.operations / 1e9:>7.4f}"
        )
    return lines
