"""Checkpoints: weights with all that is needed to use them, in plain types, read without running code.

A checkpoint holds `format`, `task` (detector where it is missing, or classifier), `recipe` (every value of the config),
`class_names`, `category_ids`, `weights` (the averaged ones, for use) and, for resuming, `training`.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from cspdet.config.loader import parse_config
from cspdet.errors import CheckpointError, ConfigError, truncate_list
from cspdet.io.atomic import atomic_write
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, recipe_to_dict
from cspdet.structures import Categories

FORMAT = "cspdet 1"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file says. `training` is None in files that cannot be resumed from."""

    recipe: DetectionRecipe | ClassificationRecipe
    classes: Categories
    weights: dict[str, Tensor]
    training: dict[str, Any] | None = None


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a reader sees the old file or the new one, also when the disk is full.

    Raises:
        UserError: the file cannot be written; the previous one is kept.
    """
    content = {
        "format": FORMAT,
        "task": "detector" if isinstance(checkpoint.recipe, DetectionRecipe) else "classifier",
        "recipe": recipe_to_dict(checkpoint.recipe),
        "class_names": list(checkpoint.classes.names),
        "category_ids": list(checkpoint.classes.category_ids),
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
    """What torch's complaint about its own file came from: Ctrl-C, or the news of a dead loader process, just then."""
    while "inline_container" in str(error) and error.__context__ is not None:
        error = error.__context__
    return error


class _ErrorRecordingFile:
    """A file that keeps what the disk says to the end: torch.save hides it behind an error of its own."""

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
    """Read a checkpoint that `train` wrote, onto the CPU.

    Raises:
        CheckpointError: missing, damaged, foreign, or a file that would have to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint (.pt) that cspdet train wrote")
    if not zipfile.is_zipfile(path):  # what torch.save writes; bare pickles are not even opened
        raise CheckpointError(f"{path}: is no checkpoint, or a damaged one (not a zip archive)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, and reading it could run code; refused "
            f"({str(error).splitlines()[0][:120]})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is no checkpoint, or a damaged one ({reason})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: is not a checkpoint of cspdet: expected format {FORMAT!r}, found {found!r}")
    try:
        recipe: DetectionRecipe | ClassificationRecipe
        if content.get("task") == "classifier":
            recipe = parse_config(content["recipe"], ClassificationRecipe, str(path))
        else:
            recipe = parse_config(content["recipe"], DetectionRecipe, str(path))
        classes = Categories(tuple(content["class_names"]), tuple(content["category_ids"]))
        return Checkpoint(recipe, classes, dict(content["weights"]), content["training"])
    except ConfigError as error:
        raise CheckpointError(*error.problems) from None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is an incomplete checkpoint: {error}") from None


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
