"""Write a model in the form that other programs read, and compare it with the model before it is left on disk.

  cspdet export runs/csppelee_efm_sam/best.pt --format onnx
  cspdet export runs/csppelee_efm_sam/best.pt --format onnx --nms --min-score 0.3 --no-dynamic --size 320x512
  cspdet export runs/csppelee_efm_sam/best.pt --format openvino --precision fp16
  cspdet export runs/csppelee_efm_sam/best.pt --format onnx --precision int8 --calibration photos
  cspdet export runs/csppelee_efm_sam/best.pt --format darknet --output csppelee.cfg

eval, detect and benchmark take the .onnx, .xml and .torchscript files in place of the model.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

from cspdet.checkpoints.loading import load_model
from cspdet.cli.arguments import parse_image_size
from cspdet.darknet.write import export as darknet
from cspdet.darknet.write.graph import ExportConfig, export_metadata
from cspdet.errors import ConfigError, did_you_mean
from cspdet.export.onnx import write_onnx
from cspdet.export.openvino import write_openvino
from cspdet.export.torchscript import write_torchscript
from cspdet.inference.engines.onnx_export import DEFAULT_OPSET, MAX_OPSET, MIN_OPSET
from cspdet.inference.metadata import NmsConfig
from cspdet.models.bundle import ModelBundle

log = logging.getLogger("cspdet")

WriterFn = Callable[[ModelBundle, ExportConfig, Path], float]

WRITERS: dict[str, WriterFn] = {"onnx": write_onnx, "openvino": write_openvino, "torchscript": write_torchscript}
FORMATS = ("onnx", "openvino", "torchscript", "darknet")
SUFFIXES = {
    "onnx": (".onnx",), "openvino": (".xml",), "torchscript": (".torchscript", ".ts"), "darknet": (".cfg",)
}  # fmt: skip
OUTPUTS = ("raw", "decoded")
PRECISIONS = ("fp32", "fp16", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of `export` takes."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint, or a config with --weights")
    parser.add_argument("--format", required=True, metavar="F", help=f"what to write: {', '.join(FORMATS)}")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the .onnx, .xml (with .bin), .torchscript, or .cfg (with .weights "
        "and .names); default: beside a checkpoint, of a config here",
    )  # fmt: skip
    parser.add_argument("--size", type=parse_image_size, metavar="HxW", help="input size (default: the model's own)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained values for a config")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    group = parser.add_argument_group("onnx, openvino and torchscript")
    group.add_argument(
        "--outputs", default="raw", metavar="O", help="raw: what the network gives; decoded: boxes in input pixels "
        "and scores (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--nms", action="store_true", help="NMS inside: the output is the detections (not torchscript)")
    group.add_argument("--min-score", type=float, metavar="S", help="of --nms (default: 0.25)")
    group.add_argument("--nms-iou", "--max-iou", type=float, metavar="T", help="of --nms (default: 0.6)")
    group.add_argument("--max-detections", type=int, metavar="N", help="of --nms, a picture (default: 100)")
    group.add_argument(
        "--dynamic", action=argparse.BooleanOptionalAction, default=True,
        help="batch and size stay free; with --no-dynamic one picture of --size (default: --dynamic)",
    )  # fmt: skip
    group.add_argument(
        "--opset", type=int, default=DEFAULT_OPSET, metavar="N", help=f"of ONNX, {MIN_OPSET} to {MAX_OPSET} "
        "(default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--precision", default="fp32", metavar="P", help="of the weights: fp32, fp16 (onnx, openvino), or int8 "
        "(onnx, openvino; needs --calibration) (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--calibration", type=Path, metavar="DIR", help="pictures like those to come, for int8")


def run(args: argparse.Namespace) -> None:
    """Load, write, compare, tell."""
    if args.format not in FORMATS:
        raise ConfigError(f"--format: unknown {args.format!r}{did_you_mean(args.format, FORMATS)}; "
                          f"there are: {', '.join(FORMATS)}")  # fmt: skip
    suffixes = SUFFIXES[args.format]
    if args.output is not None and args.output.suffix not in suffixes:
        raise ConfigError(f"--output: expected the name of a {' or '.join(suffixes)}, found {str(args.output)!r}")
    if args.format == "darknet":
        _reject_graph_flags(args)
    nms = _nms_config(args)
    _validate_choices(args)
    bundle = _load(args)
    target = args.output or _default_output(args.model, suffixes[0])
    if args.format == "darknet":
        _write_darknet(args, bundle, target)
    else:
        _write_graph(args, bundle, target, nms)


def _write_graph(args: argparse.Namespace, bundle: ModelBundle, target: Path, nms: NmsConfig | None) -> None:
    size_hw = args.size or bundle.config.input.size
    export_config = ExportConfig(
        size_hw, args.outputs, nms, args.dynamic, args.opset, args.precision, args.calibration
    )  # fmt: skip
    difference = WRITERS[args.format](bundle, export_config, target)
    metadata = export_metadata(bundle, export_config)
    if nms is not None and metadata.eval.vote_iou is not None:
        log.warning(
            "%s: without box voting (eval.vote_iou %g), which needs what NMS drops", target, metadata.eval.vote_iou
        )
    files = [target, target.with_suffix(".bin")] if args.format == "openvino" else [target]
    height, width = size_hw
    if args.json:
        print(json.dumps({
            "files": [str(path) for path in files], "size": [height, width], "classes": len(metadata.class_names),
            "outputs": metadata.outputs, "precision": args.precision, "dynamic": args.dynamic,
            "difference": difference,
        }))  # fmt: skip
        return
    shape = f"any batch, any size, made for {height}x{width}" if args.dynamic else f"one picture of {height}x{width}"
    how = "on average by" if args.precision == "int8" else "by"
    print(
        f"{', '.join(str(path) for path in files)}: {metadata.outputs} outputs, {args.precision}, {shape}; "
        f"beside the network, the outputs differ {how} {difference:.1e} of the largest"
    )


def _write_darknet(args: argparse.Namespace, bundle: ModelBundle, target: Path) -> None:
    files = darknet.build_darknet_files(bundle, args.size, str(args.model))
    written = darknet.write_darknet(files, bundle.torch_network, target)
    if args.json:
        print(json.dumps({
            "files": [str(path) for path in written.paths], "size": list(files.size_hw), "classes": len(files.names),
            "numbers": written.num_weights, "difference": written.relative_error,
        }))  # fmt: skip
        return
    height, width = files.size_hw
    print(
        f"{', '.join(str(path) for path in written.paths)}: {written.num_weights:,} numbers for {height}x{width}; "
        f"read back, the outputs differ by {written.relative_error:.1e} of the largest"
    )


def _reject_graph_flags(args: argparse.Namespace) -> None:
    given = {
        "--nms": args.nms, "--no-dynamic": not args.dynamic, "--outputs": args.outputs != "raw",
        "--opset": args.opset != DEFAULT_OPSET, "--precision": args.precision != "fp32", "--calibration": args.calibration,
    }  # fmt: skip
    problems = [f"{flag}: --format darknet has no such choice" for flag, is_given in given.items() if is_given]
    if problems:
        raise ConfigError(*problems)


def _validate_choices(args: argparse.Namespace) -> None:
    problems = [
        f"--{name}: expected {', '.join(words)}; found {word!r}{did_you_mean(word, words)}"
        for name, word, words in (("outputs", args.outputs, OUTPUTS), ("precision", args.precision, PRECISIONS))
        if word not in words
    ]
    if args.calibration is not None and args.precision != "int8":
        problems.append("--calibration: goes with --precision int8")
    if args.precision == "int8" and args.calibration is None:
        problems.append("--precision int8: expected --calibration DIR too, a folder of pictures like those to come")
    if problems:
        raise ConfigError(*problems)


def _nms_config(args: argparse.Namespace) -> NmsConfig | None:
    """The limits of the NMS inside, where it is wanted."""
    names = ("min_score", "nms_iou", "max_detections")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if not args.nms:
        if given:
            raise ConfigError(f"--{next(iter(given)).replace('_', '-')}: goes with --nms")
        return None
    problems = [
        f"--{name.replace('_', '-')}: expected a number from 0 to 1, found {given[name]}"
        for name in ("min_score", "nms_iou")
        if name in given and not 0 <= given[name] <= 1
    ]
    if given.get("max_detections", 1) < 1:
        problems.append(f"--max-detections: expected 1 or more, found {given['max_detections']}")
    if problems:
        raise ConfigError(*problems)
    return NmsConfig(**given)


def _default_output(model: Path, suffix: str) -> Path:
    return model.with_suffix(suffix) if model.suffix == ".pt" else Path(f"{model.stem}{suffix}")


def _load(args: argparse.Namespace) -> ModelBundle:
    if args.model.suffix in (".yaml", ".yml") and args.weights is None:
        log.warning("%s: without --weights the network is written with random ones", args.model)
    return load_model(args.model, weights=args.weights, overrides=args.overrides)
