"""Checkpoint files: weights, config and classes as plain types and tensors, loaded with `weights_only=True`.

Format `cspdet 2` is a dict with the keys `format`, `program` (the version that wrote the file), `task` (detection or
classification), `config` (all values of the recipe), `class_names`, `category_ids`, `info` (facts about the weights),
`weights` (the EMA weights, if EMA is used) and `training` (the training state, for resuming). A `.safetensors` file has
the same content without `training`; see `cspdet.io.safetensors_file`. Format `cspdet 1` can also be read; see
`cspdet.io.checkpoint_v1`.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cspdet import __version__
from cspdet.errors import CheckpointError, truncate_list
from cspdet.io.checkpoint_v1 import FORMAT_1, upgrade_content
from cspdet.io.model_info import ModelInfo, parse_info
from cspdet.io.safetensors_file import FORMAT, read_content, write_content
from cspdet.io.torch_file import read_torch_file, write_torch_file
from cspdet.structures import Categories

TASKS = ("detection", "classification")
PROGRAM = f"cspdet {__version__}"
WEIGHT_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
BACKBONE_HINT = "; weights of timm are read as --weights of a network with a timm backbone"


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
        info: Facts about the weights, such as data, metrics and license.
    """

    task: str
    config: dict[str, Any]
    categories: Categories
    weights: dict[str, Tensor]
    training: dict[str, Any] | None = None
    program: str = PROGRAM
    info: ModelInfo = field(default_factory=ModelInfo)

    def describe(self, path: str) -> str:
        """Return `path`; if another program or version wrote the file, with the name of the writer."""
        return path if self.program == PROGRAM else f"{path} (written by {self.program})"


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint (`.pt`) atomically. If writing fails, for example on a full disk, the previous file is kept.

    Raises:
        UserError: The file cannot be written.
    """
    write_torch_file(path, _to_content(checkpoint))


def save_safetensors(path: str | Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write a checkpoint as a `.safetensors` file, without its training state.

    Args:
        path: The file; it is written atomically.
        checkpoint: The content.
        half: Whether weights are stored in fp16.

    Raises:
        UserError: The file cannot be written, or a weight is too large for fp16.
    """
    write_content(Path(path), _to_content(checkpoint), half=half)


def _to_content(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "program": checkpoint.program,
        "task": checkpoint.task,
        "config": checkpoint.config,
        "class_names": list(checkpoint.categories.names),
        "category_ids": list(checkpoint.categories.category_ids),
        "info": checkpoint.info.to_json(),
        "weights": checkpoint.weights,
        "training": checkpoint.training,
    }


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
    info = parse_info(content.get("info", {}))
    return Checkpoint(task, dict(config), Categories(tuple(names), tuple(ids)), dict(weights), training, program, info)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor can be copied into a network: dense, on the CPU, and of a type in WEIGHT_DTYPES."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in WEIGHT_DTYPES


def _printable(program: object) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(program)[:60])


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint onto the CPU: a `.pt` file of `cspdet train`, or a `.safetensors` file of `cspdet export`.

    The config keeps the key names of the version that wrote the file; `recipe_from_checkpoint` renames the keys.

    Raises:
        CheckpointError: The file is missing, corrupt, written by another program, or would run code when loaded.
    """
    path = Path(path)
    is_safetensors = path.suffix == ".safetensors"
    content = read_content(path) if is_safetensors else read_torch_file(path)
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or found not in (FORMAT, FORMAT_1):
        raise CheckpointError(
            f"{path}: not a checkpoint of cspdet: expected format {FORMAT!r}, found {reprlib.repr(found)}"
            + (newer_version_hint(found, content.get("program")) if isinstance(content, dict) else "")
            + (BACKBONE_HINT if is_safetensors and not str(found).startswith("cspdet") else "")
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
