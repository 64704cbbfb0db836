"""Export a model to another format; the outputs are verified against the network before the files are written.

  cspdet export runs/csppelee_efm_sam/best.pt --format onnx
  cspdet export runs/csppelee_efm_sam/best.pt --format onnx --nms --min-score 0.3 --no-dynamic --size 320x512
  cspdet export runs/csppelee_efm_sam/best.pt --format openvino --precision fp16
  cspdet export runs/csppelee_efm_sam/best.pt --format onnx --precision int8 --calibration photos
  cspdet export runs/csppelee_efm_sam/best.pt --format darknet --output csppelee.cfg
  cspdet export runs/csppelee_efm_sam/best.pt --format mymodule:MyFormat

eval, detect and benchmark accept the .onnx, .xml and .torchscript files as MODEL.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cspdet.cli.arguments import add_model_options, check_model, model_path, parse_image_size, print_lines
from cspdet.config.user_modules import allow_user_modules
from cspdet.errors import ConfigError
from cspdet.exporters.base import (
    EXPORT_FORMATS,
    OUTPUTS,
    PRECISIONS,
    ExportConfig,
    ExportResult,
    check_config,
    load_format,
)

if TYPE_CHECKING:
    from cspdet.inference.metadata import NmsConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a checkpoint, or a config with --weights")
    parser.add_argument(
        "--format", metavar="F",
        help=f"{', '.join(EXPORT_FORMATS.names())}, or module:Class of a user-defined format (default: by the suffix "
        "of --output)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the .onnx, .xml (with .bin), .torchscript, or .cfg (with .weights "
        "and .names) (default: next to a checkpoint; for a config, in the current folder)",
    )  # fmt: skip
    parser.add_argument("--size", type=parse_image_size, metavar="HxW", help="input size (default: that of the model)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained weights for a config")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_model_options(parser)
    group = parser.add_argument_group("onnx, openvino and torchscript")
    group.add_argument(
        "--outputs", default="raw", metavar="O", help=f"{' or '.join(OUTPUTS)}; raw: the outputs of the network; "
        "decoded: boxes in input pixels and scores (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--nms", action="store_true", help="include NMS: the outputs are detections (not torchscript)")
    group.add_argument("--min-score", type=float, metavar="S", help="score threshold of --nms (default: 0.25)")
    group.add_argument("--nms-iou", "--max-iou", type=float, metavar="T", help="IoU threshold of --nms (default: 0.6)")
    group.add_argument("--max-detections", type=int, metavar="N", help="detections per image with --nms (default: 100)")
    group.add_argument(
        "--dynamic", action=argparse.BooleanOptionalAction, default=True,
        help="any batch and image size; --no-dynamic: one image of --size (default: --dynamic)",
    )  # fmt: skip
    group.add_argument("--opset", type=int, metavar="N", help="ONNX opset, 13 to 20 (default: 17)")
    group.add_argument(
        "--precision", default="fp32", metavar="P", help=f"of the weights: {', '.join(PRECISIONS)}; fp16 and int8 only "
        "for onnx and openvino; int8 needs --calibration (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--calibration", type=Path, metavar="DIR", help="folder of representative images, for int8")


def run(args: argparse.Namespace) -> None:
    """Load the model, write and verify the files, and print the result."""
    format_name = _format_name(args)
    with allow_user_modules():
        export_format = load_format(format_name)
    if args.output is not None:
        export_format.check_target(args.output)
    config = ExportConfig(
        args.size, args.outputs, _nms_config(args), args.dynamic, args.opset, args.precision, args.calibration
    )
    export_format.check_options(config)
    check_config(config)
    check_model(args.model, args.overrides)
    from cspdet.workflows.export import export_model

    result = export_model(
        args.model, format_name, args.output, config, weights=args.weights, overrides=args.overrides
    )  # fmt: skip
    _print_result(result, config, as_json=args.json)


def _format_name(args: argparse.Namespace) -> str:
    """Return the name of the export format.

    The name is the value of `--format`, in lower case unless it is `module:Class`. Without `--format`, the suffix of
    `--output` determines the format.
    """
    known = EXPORT_FORMATS.names()
    if args.format is not None:
        return str(args.format if ":" in args.format else args.format.lower())
    suffix = "" if args.output is None else args.output.suffix
    for name in known:
        if suffix and suffix in load_format(name).suffixes:
            return name
    raise ConfigError(f"--format: expected one of {', '.join(known)}, found none; for example --format {known[0]}")


def _print_result(result: ExportResult, config: ExportConfig, *, as_json: bool) -> None:
    files = [str(path) for path in result.paths]
    if as_json:
        values = {"files": files, "size": list(result.size_hw), "classes": result.num_classes}
        print(json.dumps({**values, **result.details, "difference": result.difference}))
        return
    how = "on average by" if config.precision == "int8" else "by"
    verified = f"verified: the outputs differ from the network's {how} {result.difference:.1e} of the largest"
    print_lines([f"{', '.join(files)}: {result.description}; {verified}"])


def _nms_config(args: argparse.Namespace) -> NmsConfig | None:
    """Return the parameters of the NMS that is built into the file, or None without `--nms`.

    Raises:
        ConfigError: A value is out of range, or an option of NMS is given without `--nms`.
    """
    names = ("min_score", "nms_iou", "max_detections")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if not args.nms:
        if given:
            raise ConfigError(f"--{next(iter(given)).replace('_', '-')}: needs --nms")
        return None
    problems = []
    if not 0 <= given.get("min_score", 0) < 1:
        problems.append(f"--min-score: expected a number from 0 to below 1, found {given['min_score']}")
    if not 0 <= given.get("nms_iou", 0) <= 1:
        problems.append(f"--nms-iou: expected a number from 0 to 1, found {given['nms_iou']}")
    if given.get("max_detections", 1) < 1:
        problems.append(f"--max-detections: expected 1 or more, found {given['max_detections']}")
    if problems:
        raise ConfigError(*problems)
    from cspdet.inference.metadata import NmsConfig

    return NmsConfig(**given)


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("export"))
