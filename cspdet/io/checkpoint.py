"""Checkpoint files: weights, config and classes as plain types and tensors, loaded with `weights_only=True`.

Format `cspdet 2` is a dict with the keys `format`, `program` (the version that wrote the file), `task` (detection or
classification), `config` (all values of the recipe), `class_names`, `category_ids`, `weights` (the EMA weights, if EMA
is used) and `training` (the training state, for resuming). Format `cspdet 1` can also be read; see
`cspdet.io.checkpoint_v1`.
"""

from __future__ import annotations

import pickle
import reprlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from cspdet import __version__
from cspdet.errors import CheckpointError, truncate_list
from cspdet.io.atomic import atomic_write
from cspdet.io.checkpoint_v1 import FORMAT_1, upgrade_content
from cspdet.io.integrity import check_integrity
from cspdet.structures import Categories

FORMAT = "cspdet 2"
TASKS = ("detection", "classification")
PROGRAM = f"cspdet {__version__}"
WEIGHT_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file.

    Attributes:
        task: detection or classification.
        config: The recipe as plain values, as returned by `model_dump(mode="json")`.
        categories: Names and category ids of the classes.
        weights: The state dict for inference, float32 on the CPU: the EMA weights if EMA is used.
        training: The training state for resuming, as returned by `TrainingState.state_dict`; None in `best.pt`.
        program: Name and version of the program that wrote the file.
    """

    task: str
    config: dict[str, Any]
    categories: Categories
    weights: dict[str, Tensor]
    training: dict[str, Any] | None = None
    program: str = PROGRAM

    def describe(self, path: str) -> str:
        """Return `path`. If another program or version wrote the file, append the name of this program."""
        return path if self.program == PROGRAM else f"{path} (written by {self.program})"


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically. If writing fails, for example on a full disk, the previous file is kept.

    Raises:
        UserError: The file cannot be written.
    """
    content = {
        "format": FORMAT,
        "program": checkpoint.program,
        "task": checkpoint.task,
        "config": checkpoint.config,
        "class_names": list(checkpoint.categories.names),
        "category_ids": list(checkpoint.categories.category_ids),
        "weights": checkpoint.weights,
        "training": checkpoint.training,
    }
    with atomic_write(path) as tmp_path, tmp_path.open("wb") as file:
        sink = _ErrorRecordingFile(file)
        try:
            torch.save(content, cast(BinaryIO, sink))
        except RuntimeError as error:
            raise _root_cause(error) from None
        if sink.error is not None:
            raise sink.error


def _root_cause(error: BaseException) -> BaseException:
    """Return the original error, such as Ctrl-C or a crash of a loader process, that torch replaced by a file error."""
    while "inline_container" in str(error) and error.__context__ is not None:
        error = error.__context__
    return error


class _ErrorRecordingFile:
    """File wrapper that stores the first disk error. torch.save replaces this error by an error without the cause."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            if self.error is None:
                self.file.write(data)
        except OSError as error:
            self.error = error
        return len(data)

    def flush(self) -> None:
        pass


def _from_content(content: dict[str, Any]) -> Checkpoint:
    """Build a checkpoint from the content of a file. Types are checked here; the values of `config` are checked later.

    Raises:
        KeyError, TypeError, ValueError: An entry is missing or has another type.
    """
    task, config, weights, training = content["task"], content["config"], content["weights"], content.get("training")
    names, ids = content["class_names"], content["category_ids"]
    if task not in TASKS:
        raise ValueError(f"task: expected {' or '.join(TASKS)}, found {reprlib.repr(task)}")
    for key, value in (("config", config), ("weights", weights), ("training", training)):
        if not isinstance(value, dict) and not (key == "training" and value is None):
            raise TypeError(f"{key}: expected a mapping, found {reprlib.repr(value)}")
    if not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
        raise TypeError(f"class_names: expected a list of text, found {reprlib.repr(names)}")
    if not (isinstance(ids, (list, tuple)) and all(type(number) is int for number in ids)):
        raise TypeError(f"category_ids: expected a list of whole numbers, found {reprlib.repr(ids)}")
    for name, tensor in weights.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor) and _is_plain(tensor)):
            raise TypeError(f"weights: {reprlib.repr(name)}: expected a dense tensor of numbers")
    program = _printable(content.get("program", "an unknown program"))
    return Checkpoint(task, dict(config), Categories(tuple(names), tuple(ids)), dict(weights), training, program)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor can be copied into a network: dense, on the CPU, and of a type in WEIGHT_DTYPES."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in WEIGHT_DTYPES


def _printable(program: object) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(program)[:60])


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint that `cspdet train` wrote, onto the CPU.

    The config keeps the key names of the version that wrote the file; `recipe_from_checkpoint` renames the keys.

    Raises:
        CheckpointError: The file is missing, corrupt, written by another program, or would run code when loaded.
    """
    path = Path(path)
    content = _read(path)
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or found not in (FORMAT, FORMAT_1):
        raise CheckpointError(
            f"{path}: not a checkpoint of cspdet: expected format {FORMAT!r}, found {reprlib.repr(found)}"
            + (newer_version_hint(found, content.get("program")) if isinstance(content, dict) else "")
        )
    try:
        return _from_content(upgrade_content(content) if found == FORMAT_1 else content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: incomplete checkpoint: {error}") from None


def newer_version_hint(found: object, program: object) -> str:
    """Return a hint to install a newer cspdet if a cspdet version with another format wrote the file; else ""."""
    if not isinstance(found, str) or not found.startswith("cspdet ") or program is None:
        return ""
    return f"; it was written by {_printable(program)}, this is {PROGRAM}: install a newer cspdet"


def _read(path: Path) -> Any:
    """Read the content of a checkpoint file, a zip archive of tensors and plain values."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint (.pt) that cspdet train wrote")
    if not zipfile.is_zipfile(path):  # torch.save writes a zip archive; bare pickles are not opened
        raise CheckpointError(f"{path}: not a checkpoint, or corrupt (not a zip archive)")
    check_integrity(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: contains more than tensors and plain values, so loading it could run code; not loaded "
            f"({str(error).splitlines()[0][:120]})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a checkpoint, or corrupt ({reason})") from None


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load a state dict into a network. The names and shapes of all entries must be equal, and all values finite.

    Raises:
        CheckpointError: Names or shapes differ, or values are not finite; the message lists the first problems.
    """
    model_state = model.state_dict()
    problems = [f"{where}: {name}: missing in the file" for name in model_state if name not in weights]
    problems += [f"{where}: {name}: not in the network" for name in weights if name not in model_state]
    problems += [
        f"{where}: {name}: expected shape {tuple(model_state[name].shape)}, found {tuple(weights[name].shape)}"
        for name in model_state
        if name in weights and model_state[name].shape != weights[name].shape
    ]
    if problems:
        heading = (
            f"{where}: the weights are of another architecture ({len(problems)} of {len(model_state)} entries differ)"
        )
        raise CheckpointError(heading, *truncate_list(problems, 5))
    check_finite(weights, where)
    model.load_state_dict(weights)


def check_finite(weights: dict[str, Tensor], where: str) -> None:
    """Raise CheckpointError if a weight is NaN or infinite. A network with such weights has no valid output."""
    broken = [name for name, value in weights.items() if not _is_finite(value)]
    if broken:
        raise CheckpointError(
            f"{where}: {len(broken)} of {len(weights)} tensors have values that are not finite (NaN or infinity): "
            + ", ".join(truncate_list(broken, 3))
        )


def _is_finite(value: Tensor) -> bool:
    # The sum is finite only if every value is; it is several times as fast, but may overflow.
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())
