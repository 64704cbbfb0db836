"""Checkpoint files: weights with everything that is needed to use them, in plain types, read without running code.

Format `cspdet 2` is a dict with the keys `format`, `program` (what wrote it), `task` (detection or classification),
`config` (every value of the recipe), `class_names`, `category_ids`, `weights` (the averaged ones, for use) and, for
resuming, `training`. Files of format `cspdet 1` are read too; see `cspdet.io.checkpoint_v1`.
"""

from __future__ import annotations

import pickle
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
from cspdet.structures import Categories

FORMAT = "cspdet 2"
TASKS = ("detection", "classification")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        task: detection or classification.
        config: The recipe as plain values, as `model_dump(mode="json")` gives it.
        categories: Names and ids of the classes, by class index.
        weights: The state dict for use: of the averaged network, float32, on the CPU.
        training: The state to resume from, as `TrainingState.state_dict` gives it; None where there is none.
        program: The version of cspdet that wrote the file.
    """

    task: str
    config: dict[str, Any]
    categories: Categories
    weights: dict[str, Tensor]
    training: dict[str, Any] | None = None
    program: str = f"cspdet {__version__}"


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a reader sees the old file or the new one, also when the disk is full.

    Raises:
        UserError: the file cannot be written; the previous one is kept.
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
    """The error behind torch's error about its file: Ctrl-C, or the death of a loader process, at that moment."""
    while "inline_container" in str(error) and error.__context__ is not None:
        error = error.__context__
    return error


class _ErrorRecordingFile:
    """A file that keeps the first error of the disk until the end: torch.save hides it behind an error of its own."""

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


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint that `cspdet train` wrote, onto the CPU.

    The keys of its config are those of the version that wrote it; reading it as a recipe renames them.

    Raises:
        CheckpointError: missing, damaged, of another program, or a file that would have to run code.
    """
    path = Path(path)
    content = _read(path)
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or found not in (FORMAT, FORMAT_1):
        raise CheckpointError(f"{path}: is not a checkpoint of cspdet: expected format {FORMAT!r}, found {found!r}")
    try:
        if found == FORMAT_1:
            content = upgrade_content(content)
        if content["task"] not in TASKS:
            raise ValueError(f"task: expected {' or '.join(TASKS)}, found {content['task']!r}")
        return Checkpoint(
            content["task"],
            dict(content["config"]),
            Categories(tuple(content["class_names"]), tuple(content["category_ids"])),
            dict(content["weights"]),
            content["training"],
            str(content["program"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: is an incomplete checkpoint: {error}") from None


def _read(path: Path) -> Any:
    """The content of a zip archive of tensors and plain values."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint (.pt) that cspdet train wrote")
    if not zipfile.is_zipfile(path):  # what torch.save writes; bare pickles are not even opened
        raise CheckpointError(f"{path}: is no checkpoint, or a damaged one (not a zip archive)")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, and reading it could run code; refused "
            f"({str(error).splitlines()[0][:120]})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is no checkpoint, or a damaged one ({reason})") from None


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Put weights into a network of exactly that architecture.

    Raises:
        CheckpointError: names or shapes that do not fit, the first ones and their count.
    """
    model_state = model.state_dict()
    problems = [f"{where}: {name}: missing in the file" for name in model_state if name not in weights]
    problems += [f"{where}: {name}: the network has no such weight" for name in weights if name not in model_state]
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
    model.load_state_dict(weights)
