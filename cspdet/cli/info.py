"""Parameters, BFLOPs, memory traffic and strides of networks, compared with published values.

  cspdet info configs/csppelee_efm.yaml configs/csppelee_efm_sam.yaml configs/classification/csppeleenet.yaml
  cspdet info runs/csppelee_efm_sam/best.pt --size 608x608 --layers
  cspdet info configs/pelee_yolov3.yaml configs/csppelee_efm.yaml --layers --plot layers.png

BFLOPs are counted as Darknet does: 2 per multiply-add of convolutions and linear layers, and window size times outputs
for poolings. Traffic is the number of elements that convolutions read and write, in millions; CIO, defined in the
CSPNet paper, includes poolings. The network of a config has 80 classes (COCO) if the dataset of its `data` does not
exist. Published values are listed for networks of the same name, unless an override changes `model`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cspdet.cli.arguments import add_import_argument, check_model, model_path, parse_image_size, print_lines
from cspdet.io.names import distinct_names
from cspdet.models.published import PublishedResult, find_published_result

if TYPE_CHECKING:
    from cspdet.checkpoints.model_profile import ModelProfile
    from cspdet.models.profile import ModelCost

InfoRow = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `info`."""
    parser.add_argument("models", nargs="+", type=model_path, metavar="MODEL", help="configs and checkpoints")
    parser.add_argument("--size", type=parse_image_size, metavar="HxW", help="input size (default: that of the model)")
    parser.add_argument(
        "--layers", action="store_true", help="list every convolution, linear layer and pooling, and the largest layer"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="plot the layers of all MODELs to a .png or .svg file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_import_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Profile the models, print a table or JSON, and plot the layers if requested."""
    from cspdet.reports.layer_plot import plot_layers, validate_output_path

    if args.plot:
        validate_output_path(args.plot)
    for path in args.models:
        check_model(path, args.overrides)
    profiles = _profile(args)
    if args.plot:
        plot_layers([(model.name, model.cost) for model in profiles], args.plot)
    if args.json:
        print(json.dumps([_row(model) | (_details(model.cost) if args.layers else {}) for model in profiles]))
        return
    print_lines(_table(profiles))
    if args.layers:
        for model in profiles:
            print_lines(["", f"{model.name}, layer by layer", *_layer_table(model.cost)])
        print_lines(["", *_largest_layers(profiles)])


def _profile(args: argparse.Namespace) -> list[ModelProfile]:
    """Profile the models; models of one name, such as best, are named by the parts of their paths that differ."""
    from cspdet.checkpoints.model_profile import profile_model

    num_classes_cache: dict[Path, int] = {}
    profiles = [
        profile_model(path, args.overrides, args.size, num_classes_cache=num_classes_cache) for path in args.models
    ]
    if len({model.name for model in profiles}) == len(set(args.models)):
        return profiles
    return [replace(model, name=name) for model, name in zip(profiles, distinct_names(args.models), strict=True)]


# --- JSON ----------------------------------------------------------------------------------------


def _row(model: ModelProfile) -> InfoRow:
    cost, published = model.cost, _published(model)
    return {
        "model": model.name,
        "size": list(cost.size_hw),
        "parameters": cost.parameters,
        "conv_weights": cost.conv_weights,
        "bflops": cost.bflops,
        "memory_traffic": cost.conv_memory_access,
        "largest_layer_bflops": cost.largest_layer_bflops,
        "strides": list(model.strides),
        "program": model.program,
        "published": published and _published_to_json(published, cost),
    }


def _published(model: ModelProfile) -> PublishedResult | None:
    name = Path(model.name).stem if "/" in model.name else model.name
    return find_published_result(name, model.cost.size_hw) if model.matches_published else None


def _published_to_json(published: PublishedResult, cost: ModelCost) -> InfoRow:
    """Return the published values, and the relative difference between each counted value and its published value."""
    return published._asdict() | {
        "size": list(published.size),
        "conv_weights_difference": _difference(cost.conv_weights, published.conv_weights),
        "bflops_difference": _bflops_difference(cost, published),
        "stored_numbers_difference": _difference(cost.stored_values, published.stored_values),
    }


def _difference(counted: float, published: float | None) -> float | None:
    return counted / published - 1 if published else None


def _bflops_difference(cost: ModelCost, published: PublishedResult) -> float | None:
    return _difference(cost.bflops, published.expected_bflops) if cost.size_hw == published.size else None


def _details(cost: ModelCost) -> InfoRow:
    layers = [
        {
            "name": layer.name,
            "kind": layer.layer_type,
            "input": list(layer.input_chw),
            "output": list(layer.output_chw),
            "weights": layer.weights,
            "bflops": layer.operations / 1e9,
        }
        for layer in cost.layers
    ]
    return {
        "cio": cost.cio,
        "stored_numbers": cost.stored_values,
        "parts_bflops": cost.part_bflops,
        "largest_layer": cost.largest_layer.name,
        "layers": layers,
    }


# --- tables --------------------------------------------------------------------------------------


def _table(profiles: list[ModelProfile]) -> list[str]:
    """Return the lines of the table: for each model a line, and lines with its published values and notes."""
    parts = list(dict.fromkeys(part for model in profiles for part in model.cost.part_bflops))
    width = max(len("  stored numbers"), *(len(model.name) for model in profiles))
    head = f"{'model':<{width}}  {'size':>9}  {'parameters':>11}  {'conv weights':>12}  {'BFLOPs':>8}"
    lines = [
        head + "".join(f"  {part:>8}" for part in parts) + f"  {'largest':>8}  {'traffic':>7}  {'CIO':>7}  strides"
    ]
    for model in profiles:
        cost = model.cost
        part_cells = (f"{cost.part_bflops[part]:.4f}" if part in cost.part_bflops else "" for part in parts)
        lines.append(
            f"{model.name:<{width}}  {_format_size(cost.size_hw):>9}  "
            f"{cost.parameters:>11,}  {cost.conv_weights:>12,}  "
            f"{cost.bflops:>8.4f}" + "".join(f"  {cell:>8}" for cell in part_cells) + f"  "
            f"{cost.largest_layer_bflops:>8.4f}  {cost.conv_memory_access / 1e6:>7.2f}  {cost.cio / 1e6:>7.2f}  "
            f"{' '.join(str(stride) for stride in model.strides)}"
        )
        if model.program is not None:
            lines.append(f"  written by {model.program}")
        published = _published(model)
        if published is not None:
            lines += _published_lines(published, cost, width)
    return lines


def _published_lines(published: PublishedResult, cost: ModelCost, width: int) -> list[str]:
    def line(name: str, size: str, weights: str, bflops: str, more: str = "") -> str:
        return f"{'  ' + name:<{width}}  {size:>9}  {'':>11}  {weights:>12}  {bflops:>8}  {more}".rstrip()

    weights = f"{published.conv_weights / 1e6:.2f}M" if published.conv_weights else ""
    bflops = f"{published.bflops:g}" if published.bflops else ""
    lines = [
        line("published", _format_size(published.size), weights, bflops, f"{published.fidelity}; {published.source}")
    ]
    differences = (
        _difference(cost.conv_weights, published.conv_weights), _bflops_difference(cost, published),
    )  # fmt: skip
    if differences != (None, None):
        lines.append(
            line("difference", "", *("" if difference is None else f"{difference:+.2%}" for difference in differences))
        )
    if published.stored_values:
        difference = _difference(cost.stored_values, published.stored_values)
        lines.append(
            f"  stored values (weights, biases, 4 per batch-norm channel): {cost.stored_values:,}, "
            f"published {published.stored_values / 1e6:.2f}M ({difference:+.2%})"
        )
    if published.cio and cost.size_hw == published.size:
        difference = _difference(cost.cio, published.cio)
        lines.append(f"  published CIO: {published.cio / 1e6:.1f}M ({difference:+.2%})")
    accuracy = _accuracy(published)
    lines += [f"  published accuracy: {accuracy}"] if accuracy else []
    lines += [f"  note: {published.note}"] if published.note else []
    return lines


def _accuracy(published: PublishedResult) -> str:
    named = {
        "top-1": published.top1,
        "top-5": published.top5,
        "AP": published.ap,
        "AP50": published.ap50,
        "AP75": published.ap75,
    }
    words = [f"{name} {value}" for name, value in named.items() if value is not None]
    return ", ".join([*words, *([f"fps {published.fps}"] if published.fps else [])])


def _layer_table(cost: ModelCost) -> list[str]:
    width = max(len(layer.name) for layer in cost.layers)
    lines = [f"{'layer':<{width}}  {'type':<7}  {'input':>12}  {'output':>12}  {'weights':>9}  {'BFLOPs':>7}"]
    for layer in cost.layers:
        input_shape, output_shape = ("x".join(str(n) for n in shape) for shape in (layer.input_chw, layer.output_chw))
        lines.append(
            f"{layer.name:<{width}}  {layer.layer_type:<7}  "
            f"{input_shape:>12}  {output_shape:>12}  {layer.weights:>9,}  "
            f"{layer.operations / 1e9:>7.4f}"
        )
    return lines


def _largest_layers(profiles: list[ModelProfile]) -> list[str]:
    """Return lines with the largest layer of each model and its cost relative to the first model's largest layer."""
    first = profiles[0].cost.largest_layer_bflops
    width = max(len(model.name) for model in profiles)
    lines = ["largest layers" + (f", compared with that of {profiles[0].name}" if len(profiles) > 1 else "")]
    for model in profiles:
        largest = model.cost.largest_layer
        equals = sum(layer.operations == largest.operations for layer in model.cost.layers) - 1
        change = "" if model is profiles[0] else f"  {model.cost.largest_layer_bflops / first - 1:+.1%}"
        more = f"  and {equals} more of equal cost" if equals else ""
        lines.append(
            f"{model.name:<{width}}  {model.cost.largest_layer_bflops:>7.4f} BFLOPs  {largest.name}{change}{more}"
        )
    return lines


def _format_size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"
