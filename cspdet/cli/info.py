"""Parameters, BFLOPs, memory traffic and strides of networks, with published values and metadata of checkpoints.

  cspdet info csppelee_efm csppelee_efm_sam classification/csppeleenet
  cspdet info runs/csppelee_efm_sam/best.pt            # with classes, data, metrics, license and versions
  cspdet info runs/csppelee_efm_sam/best.pt --size 608x608 --layers
  cspdet info pelee_yolov3 csppelee_efm --layers --plot layers.png

BFLOPs are billions of operations, counted as in Darknet: 2 per multiply-add of convolutions and linear layers, and
window size times outputs for poolings. Traffic is the number of elements that convolutions read and write, in millions.
CIO, a term of the CSPNet paper, is the same number for all layers, including poolings and linear layers. The network of
a config has 80 classes (COCO) if the dataset of its `data` does not exist. Published values are listed for networks of
the same name, unless an override changes `model`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cspdet.cli.arguments import add_model_options, check_model, model_path, parse_image_size, print_lines
from cspdet.cli.metadata_table import metadata_table
from cspdet.errors import check_all
from cspdet.io.names import distinct_names
from cspdet.io.tables import Table
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
    add_model_options(parser)


def run(args: argparse.Namespace) -> None:
    """Profile the models, print a table or JSON, and plot the layers if requested."""
    from cspdet.reports.layer_plot import plot_layers, validate_output_path

    if args.plot:
        validate_output_path(args.plot)
    check_all(*(partial(check_model, path, args.overrides) for path in args.models))
    profiles = _profile(args)
    if args.plot:
        plot_layers([(model.name, model.cost) for model in profiles], args.plot)
    if args.json:
        print(json.dumps([_row(model) | (_details(model.cost) if args.layers else {}) for model in profiles]))
        return
    print_lines([_table(profiles), *_notes(profiles)])
    if args.layers:
        for model in profiles:
            print_lines(["", f"{model.name}, layer by layer", _layer_table(model.cost)])
        print_lines(["", *_largest_layers(profiles)])


def _profile(args: argparse.Namespace) -> list[ModelProfile]:
    """Profile the models. Models with equal names, such as best, are named by the parts of their paths that differ."""
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
        "metadata": model.metadata,
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


def _table(profiles: list[ModelProfile]) -> Table:
    parts = list(dict.fromkeys(part for model in profiles for part in model.cost.part_bflops))
    columns = ["model", "size", "parameters", "conv weights", "BFLOPs", *parts, "largest", "traffic", "CIO", "strides"]
    rows = []
    for model in profiles:
        cost = model.cost
        part_bflops = [cost.part_bflops.get(part) for part in parts]
        rows.append(
            [
                model.name, _format_size(cost.size_hw), f"{cost.parameters:,}", f"{cost.conv_weights:,}",
                f"{cost.bflops:.4f}", *("" if bflops is None else f"{bflops:.4f}" for bflops in part_bflops),
                f"{cost.largest_layer_bflops:.4f}", f"{cost.conv_memory_access / 1e6:.2f}", f"{cost.cio / 1e6:.2f}",
                " ".join(map(str, model.strides)),
            ]
        )  # fmt: skip
    return Table(columns, rows)


def _notes(profiles: list[ModelProfile]) -> list[str | Table]:
    """Return the blocks below the table: the metadata of a checkpoint, and the published values of a network."""
    lines: list[str | Table] = []
    for model in profiles:
        found: list[str | Table] = [] if model.metadata is None else [metadata_table(model.metadata)]
        published = _published(model)
        if published is not None:
            found += _published_lines(published, model.cost)
        lines += ["", model.name, *found] if found else []
    return lines


def _published_lines(published: PublishedResult, cost: ModelCost) -> list[str]:
    """Return lines with the published values and, in parentheses, the relative difference of each counted value."""
    at_size = cost.size_hw == published.size
    weights, stored = published.conv_weights, published.stored_values
    values = [
        ("conv weights", weights and f"{weights / 1e6:.2f}M", _difference(cost.conv_weights, weights)),
        ("BFLOPs", published.bflops and f"{published.bflops:g}", _bflops_difference(cost, published)),
        (
            "CIO",
            at_size and published.cio and f"{published.cio / 1e6:.1f}M",
            _difference(cost.cio, published.cio),
        ),
        (
            "stored values (weights, biases, 4 per batch-norm channel)",
            stored and f"{stored / 1e6:.2f}M",
            _difference(cost.stored_values, stored),
        ),
    ]
    words = [
        f"{name} {text}" + ("" if difference is None else f" ({difference:+.2%})")
        for name, text, difference in values
        if text
    ]
    accuracy = _accuracy(published)
    lines = [f"  published at {_format_size(published.size)}: {', '.join([*words, *accuracy])}"]
    lines.append(f"  source: {published.fidelity}; {published.source}")
    return [*lines, f"  note: {published.note}"] if published.note else lines


def _accuracy(published: PublishedResult) -> list[str]:
    values = {
        "top-1": published.top1, "top-5": published.top5, "AP": published.ap, "AP50": published.ap50,
        "AP75": published.ap75, "fps": published.fps,
    }  # fmt: skip
    return [f"{name} {value}" for name, value in values.items() if value not in (None, "")]


def _layer_table(cost: ModelCost) -> Table:
    rows = [
        [
            layer.name, layer.layer_type, _format_shape(layer.input_chw), _format_shape(layer.output_chw),
            f"{layer.weights:,}", f"{layer.operations / 1e9:.4f}",
        ]
        for layer in cost.layers
    ]  # fmt: skip
    return Table(("layer", "type", "input", "output", "weights", "BFLOPs"), rows, num_text=2)


def _format_shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _largest_layers(profiles: list[ModelProfile]) -> list[str | Table]:
    """Return a table with the costliest layer (BFLOPs) of each model, compared with the first."""
    first = profiles[0].cost.largest_layer_bflops
    rows = []
    for model in profiles:
        largest = model.cost.largest_layer
        equals = sum(layer.operations == largest.operations for layer in model.cost.layers) - 1
        more = f" and {equals} more of equal cost" if equals else ""
        change = "" if model is profiles[0] else f"{model.cost.largest_layer_bflops / first - 1:+.1%}"
        rows.append([model.name, f"{largest.name}{more}", f"{model.cost.largest_layer_bflops:.4f}", change])
    head = "largest layers" + (f", compared with that of {profiles[0].name}" if len(profiles) > 1 else "")
    return [head, Table(("model", "layer", "BFLOPs", "change"), rows, num_text=2)]


def _format_size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("info"))
