"""Compare speed and memory of models on this machine.

  cspdet benchmark csppelee_efm_sam --backend torch,onnxruntime,openvino
  cspdet benchmark runs/a/best.pt --size 416x416 --threads 2 --repeat 50 --plot speed.png
  cspdet benchmark classification/darknet53 torchvision:resnet101 torchvision:resnet152

Each row runs in its own process, and the passes of all rows are interleaved, so that ratios between rows are reliable
even if the speed of the machine changes. `forward` is the time from a batch in memory to raw outputs; `end to end` is
the time from decoded images to boxes in image pixels (or to class probabilities). `of peak` is the throughput of the
network divided by the throughput of a large matrix multiplication in the same precision, measured in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.cli.arguments import (
    add_device_argument,
    add_model_options,
    check_weights,
    model_file,
    parse_image_size,
    print_lines,
)
from cspdet.config.user_modules import USER_NAME
from cspdet.errors import ConfigError, UserError, check_all, did_you_mean
from cspdet.inference.config import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from cspdet.benchmark.rows import BenchmarkSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark`."""
    from cspdet.benchmark.rows import OPENCV

    parser.add_argument(
        "models", nargs="+", type=model_file, metavar="MODEL",
        help="checkpoints, configs (random weights without --weights), exported files, torchvision:NAME",
    )  # fmt: skip
    parser.add_argument("--weights", metavar="FILE", help="trained weights for a single MODEL that is a config")
    parser.add_argument(
        "--backend", default="auto", metavar="NAME,..", help=f"{', '.join((*BACKENDS, OPENCV))} (default: auto)"
    )
    parser.add_argument("--precision", default="fp32", metavar="P,..", help=f"{', '.join(PRECISIONS)} (default: fp32)")
    parser.add_argument("--size", type=parse_image_size, metavar="HxW", help="input size (default: that of each model)")
    parser.add_argument("--batch", default="1", metavar="N,..", help="images per forward pass (default: 1)")
    parser.add_argument("--threads", type=int, metavar="N", help="number of CPU threads (default: all)")
    parser.add_argument(
        "--repeat", type=int, default=30, metavar="N", help="timed passes per row (default: %(default)s)"
    )
    add_device_argument(parser)
    parser.add_argument(
        "--image",
        "--picture",
        type=Path,
        metavar="FILE",
        help="image for the end-to-end times (default: a synthetic image of 640x480)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.25,
        metavar="S",
        help="score threshold for the end-to-end times (default: %(default)s)",
    )
    parser.add_argument("--opencv-python", type=Path, metavar="FILE", help="Python interpreter with OpenCV 4")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot time over BFLOPs to a .png or .svg file")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_model_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the benchmarks, print and plot the rows, and raise one error for all rows that could not be measured."""
    from cspdet.benchmark.report import describe_environment, plot, table
    from cspdet.benchmark.runner import run_benchmarks
    from cspdet.reports.layer_plot import validate_output_path

    specs = _specs(args)
    if args.plot is not None:
        validate_output_path(args.plot)
    if args.opencv_python is not None and not args.opencv_python.is_file():
        raise ConfigError(f"--opencv-python {args.opencv_python}: no such file")
    check_all(*(partial(check_weights, path, "") for path in (*args.models, args.weights)))
    rows, problems = run_benchmarks(specs, args.repeat, args.opencv_python)
    if args.json:
        print(json.dumps([row.to_json() for row in rows]))
    elif rows:
        print_lines([table(rows), "", *describe_environment(rows)])
    if args.plot is not None and rows:
        plot(rows, args.plot)
    if problems:
        raise UserError(*problems)


def _specs(args: argparse.Namespace) -> list[BenchmarkSpec]:
    """Return one spec per combination of model, batch size, precision and backend; no model is loaded."""
    from cspdet.benchmark.rows import OPENCV, BenchmarkSpec
    from cspdet.device import select_device

    backends = _parse_list("--backend", args.backend, (*BACKENDS, OPENCV))
    precisions = _parse_list("--precision", args.precision, PRECISIONS)
    batches = _parse_batches(args.batch)
    if args.repeat < 1:
        raise ConfigError(f"--repeat: expected 1 or more, found {args.repeat}")
    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"--threads: expected 1 or more, found {args.threads}")
    if not 0 <= args.min_score < 1:
        raise ConfigError(f"--min-score: expected a number from 0 to below 1, found {args.min_score}")
    if args.weights is not None and len(args.models) > 1:
        raise ConfigError(f"--weights: expected a single MODEL, found {len(args.models)}")
    device = str(select_device(args.device))
    image = None if args.image is None else str(args.image)
    return [
        BenchmarkSpec(
            model, backend, precision, args.size, batch, args.threads, device, args.weights, tuple(args.overrides),
            image, args.min_score, tuple(args.user_modules),
        )
        for model in args.models
        for batch in batches
        for precision in precisions
        for backend in backends
    ]  # fmt: skip


def _parse_list(flag: str, text: str, known: tuple[str, ...]) -> list[str]:
    words = [word for word in text.split(",") if word]
    for word in words:
        if word not in known and not (flag == "--backend" and USER_NAME.fullmatch(word)):
            raise ConfigError(f"{flag}: unknown {word!r}{did_you_mean(word, known)}; known: {', '.join(known)}")
    if not words:
        raise ConfigError(f"{flag}: expected one or more of {', '.join(known)}")
    return list(dict.fromkeys(words))


def _parse_batches(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})*", text):
        raise ConfigError(f"--batch: expected a number of images, or a list such as 1,8, found {text!r}")
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("benchmark"))
