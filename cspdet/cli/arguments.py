"""Arguments that several commands share, and checks of arguments that do not import torch."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cspdet.errors import CheckpointError, ConfigError, did_you_mean
from cspdet.io.folders import CHECKPOINT_SUFFIXES, run_checkpoint
from cspdet.io.tables import Table, format_lines

MAX_INPUT_SIDE = 8192  # pixels
SPLITS = ("train", "val", "test")
CONFIG_SUFFIXES = (".yaml", ".yml")
EXPORTED_SUFFIXES = (".onnx", ".xml", ".torchscript", ".ts")
WEIGHT_SUFFIXES = (".pt", ".weights", ".safetensors", ".cfg")
MODEL_SUFFIXES = (*CHECKPOINT_SUFFIXES, *EXPORTED_SUFFIXES, ".cfg")


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--import MODULE`; `run_command` imports the modules before it runs the command."""
    parser.add_argument(
        "--import", dest="user_modules", action="append", default=[], metavar="MODULE",
        help="import this module first, if it defines classes that MODEL uses (repeatable)",
    )  # fmt: skip


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add `--import MODULE` and `--fetch`, the options of every command with a MODEL argument."""
    add_import_argument(parser)
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="download MODEL or the weights if they are a name of `cspdet zoo` or hf:user/name",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument(
        "--device", type=parse_device, default="auto", help="auto, cpu, cuda, or cuda:N or N (default: %(default)s)"
    )


def parse_device(text: str) -> str:
    """Parse `--device`. `0` means `cuda:0`. Whether the device exists is not checked.

    Raises:
        ConfigError: The text names no device, or several.
    """
    name = text.strip().lower()
    if re.fullmatch(r"(cuda:)?\d+(,\d+)+", name):
        count = name.count(",") + 1
        raise ConfigError(
            f"--device: expected one device, found {text!r}; to train on {count} devices, run "
            f"`CUDA_VISIBLE_DEVICES={name.removeprefix('cuda:')} torchrun --nproc-per-node {count} -m cspdet train ...`"
        )
    name = f"cuda:{name}" if name.isdecimal() else {"gpu": "cuda"}.get(name, name)
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is None:
        raise ConfigError(f"--device: expected auto, cpu, cuda or cuda:N, found {text!r}")
    return name


def parse_image_size(text: str) -> tuple[int, int]:
    """Parse `--size` into height and width: `416` means 416x416, `416x608` is height x width.

    Raises:
        ConfigError: The text has another format, or a side is out of range.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    size_hw = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(1 <= side <= MAX_INPUT_SIDE for side in size_hw):
        expected = f"a side such as 416, or HEIGHTxWIDTH such as 416x608, up to {MAX_INPUT_SIDE}"
        raise ConfigError(f"--size: expected {expected}, found {text!r}")
    return size_hw


def model_file(text: str) -> str:
    """Return the result of `model_path` as text."""
    return str(model_path(text))


def model_path(text: str) -> Path:
    """Return the path of a MODEL argument.

    For a run folder, this is its best checkpoint. For the name of a downloaded model, this is the downloaded file. Any
    other text is returned unchanged.
    """
    path = run_checkpoint(text)
    if path.exists():
        return path
    from cspdet.zoo.cache import resolve_model

    return resolve_model(text, must_exist=False)


def fetch_models(args: argparse.Namespace) -> None:
    """If `--fetch` is given, download the models that MODEL and `--weights` name, and store their paths in `args`.

    Raises:
        UserError: A download fails.
    """
    if not getattr(args, "fetch", False):
        return
    from cspdet.zoo.cache import find_entry
    from cspdet.zoo.hub import parse_hub_name

    def fetch(source: str | Path) -> Path:
        if find_entry(source) is None and parse_hub_name(source) is None:
            return Path(source)
        from cspdet.checkpoints.fetching import fetch_model

        return fetch_model(source.as_posix() if isinstance(source, Path) else source)

    for name in ("model", "weights"):
        source = getattr(args, name, None)
        if source is not None:
            setattr(args, name, type(source)(fetch(source)))
    if hasattr(args, "models"):
        args.models = [type(source)(fetch(source)) for source in args.models]


def check_values(args: argparse.Namespace, expected: Sequence[tuple[str, bool, str]]) -> list[str]:
    """Return one error message per argument whose value is not allowed.

    Args:
        args: The parsed arguments.
        expected: One tuple per argument: its name in `args`, whether its value is allowed, and a description of the
            allowed values.
    """
    return [
        f"--{name.replace('_', '-')}: expected {what}, found {getattr(args, name)}"
        for name, is_valid, what in expected
        if not is_valid
    ]


def print_lines(lines: Iterable[str | Table]) -> None:
    """Print lines of text and tables to stdout."""
    text = "".join(f"{line}\n" for line in format_lines(lines, sys.stdout))
    getattr(sys.stdout, "write_styled", sys.stdout.write)(text)


def use_data_override(args: argparse.Namespace) -> None:
    """Move the override `data=FILE` to `args.data` if MODEL is missing or an exported file, which has no config."""
    has_config = args.model is not None and Path(args.model).suffix not in EXPORTED_SUFFIXES
    given = [text for text in args.overrides if text.startswith("data=")]
    if given and not has_config and args.data is None:
        args.data = Path(given[-1].removeprefix("data="))
        args.overrides = [text for text in args.overrides if text not in given]


def check_weights(weights: str | Path | None, flag: str = "--weights ") -> None:
    """Check that a file with weights, or a cfg, exists; names such as timm:NAME are not checked.

    Args:
        weights: The file; None: there is none.
        flag: Text before the path in the error message.

    Raises:
        CheckpointError: The file does not exist.
    """
    path = Path(weights or "")
    if path.suffix in WEIGHT_SUFFIXES and not path.is_file():
        raise CheckpointError(f"{flag}{path}: no such file{did_you_mean(path.name, _siblings(path))}")


def _siblings(path: Path) -> list[str]:
    """Return the names of the files with the same suffix in the folder of `path`."""
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    return [name for name in names if Path(name).suffix == path.suffix]


def check_model(source: str | Path, overrides: Sequence[str] = ()) -> None:
    """Check a MODEL argument without importing torch: its file must exist, or its config and overrides must be valid.

    Raises:
        CheckpointError: The file does not exist.
        ConfigError: The config or an override is invalid.
    """
    from cspdet.zoo.cache import resolve_model

    path = resolve_model(source)
    if path.is_dir():
        raise CheckpointError(f"{path}: expected a model, or the folder of a run, found a folder without best.pt")
    if path.suffix in MODEL_SUFFIXES and not path.is_file():
        hint = did_you_mean(path.name, _siblings(path))
        raise CheckpointError(f"{path}: no such file{hint}; expected a checkpoint (.pt) or a config (.yaml)")
    if path.suffix in CONFIG_SUFFIXES:
        from cspdet.recipe import load_recipe

        load_recipe(path, overrides)
