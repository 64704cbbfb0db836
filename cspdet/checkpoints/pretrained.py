"""Initial weights of a backbone, from a checkpoint, a Darknet classifier, or timm.

x.pt, x.safetensors       a checkpoint of a classifier or detector with the same backbone
x.weights, x.conv.N       a Darknet file whose first layers are the layers of the backbone, in the order of its cfg
timm:NAME                 weights of timm, for a timm backbone with this name; a weights tag is optional
x.safetensors             a file of timm's weights, for a timm backbone of this architecture
"""

from __future__ import annotations

import copy
import itertools
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from cspdet.checkpoints.load_report import TransferReport
from cspdet.checkpoints.recipes import recipe_from_checkpoint
from cspdet.darknet.weight_order import layers_in_file_order
from cspdet.darknet.weights import LayerWeights, SkipInit, read_weights
from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import Checkpoint, load_checkpoint, load_weights
from cspdet.io.safetensors_file import is_checkpoint
from cspdet.io.text import open_file
from cspdet.models.backbones.timm_backbone import TimmBackbone
from cspdet.models.base_config import TIMM_PREFIX
from cspdet.models.classifier import BackboneClassifier, Classifier
from cspdet.models.detector import Detector

StateDict = dict[str, Tensor]  # entries of a state dict

DARKNET_FILE = re.compile(r"\.weights$|\.conv\.\d+$")
MAX_CLASSES = 100_000  # upper limit for the last layer of a classifier file
BACKBONE_PREFIX = "backbone."


def load_backbone_weights(model: nn.Module, weights: str | Path, *, backbone_only: bool = True) -> TransferReport:
    """Load `weights` into the backbone of a network, and log which entries of each part were loaded.

    Args:
        model: A network with a backbone.
        weights: A checkpoint (`.pt`, `.safetensors`), a Darknet `.weights` or `.conv.N` file, a `.safetensors` file of
            timm, or timm:NAME.
        backbone_only: If False, layers of neck and head in a Darknet file of the same detector are loaded too.

    Returns:
        The report of loaded entries.

    Raises:
        CheckpointError: The file is missing, corrupt, or for another backbone.
        ConfigError: timm does not have such weights, or the network has no module `backbone`.
    """
    name = source_name(weights)
    if not has_backbone(model):
        raise ConfigError(
            f"{name}: networks of a Darknet cfg have no separate backbone; expected a checkpoint of this network"
        )
    if name.startswith(TIMM_PREFIX):
        values = _from_timm(model, name)
    elif names_checkpoint(Path(name)):
        values = _from_checkpoint(model, load_checkpoint(name), name)
    elif Path(name).suffix == ".safetensors":
        values = _from_timm(model, name, file=Path(name))
    elif DARKNET_FILE.search(name):
        values = _from_darknet(model, Path(name), backbone_only=backbone_only)
    else:
        raise CheckpointError(
            f"{name}: expected a checkpoint (.pt, .safetensors), Darknet's .weights or .conv.N, timm's "
            f".safetensors, or {TIMM_PREFIX}NAME"
        )
    model.load_state_dict(values, strict=False)
    report = TransferReport.compare(model, values, name)
    report.log_summary()
    return report


def source_name(weights: str | Path) -> str:
    """Return the name of a source of weights: a path, or timm:NAME.

    The config loader resolves `timm:NAME` as if it were a relative path; the folder is removed here.
    """
    return Path(weights).name if Path(weights).name.startswith(TIMM_PREFIX) else str(weights)


def names_checkpoint(path: Path) -> bool:
    """Return whether a file is a checkpoint: `.pt`, or `.safetensors` with metadata of cspdet.

    Raises:
        CheckpointError: A `.safetensors` file is missing or damaged.
    """
    return path.suffix == ".pt" or (path.suffix == ".safetensors" and is_checkpoint(path))


def has_backbone(model: nn.Module) -> bool:
    """Return whether a network has a module `backbone`; a network built from a Darknet cfg does not have one."""
    return "backbone" in dict(model.named_children())


def _get_backbone(model: nn.Module) -> nn.Module:
    backbone: nn.Module = model.get_submodule("backbone")
    return backbone


# --- timm ----------------------------------------------------------------------------------------


def _from_timm(model: nn.Module, name: str, *, file: Path | None = None) -> StateDict:
    backbone = _get_backbone(model)
    as_backbone = name if file is None else f"{TIMM_PREFIX}{file.stem}"
    if not isinstance(backbone, TimmBackbone):
        raise ConfigError(
            f"{name}: fits only a timm backbone. The CSP networks of timm compute both parts of a stage with "
            "one convolution, concatenate them in the other order, and differ in widths or in the slope of the "
            f"activation. To use the timm backbone: model.backbone={{name: {as_backbone}, pretrained: true}}"
        )
    values: StateDict = (
        backbone.pretrained_state_dict(name.removeprefix(TIMM_PREFIX))
        if file is None
        else backbone.state_dict_from_file(file)
    )
    return {f"{BACKBONE_PREFIX}{key}": value for key, value in values.items()}


# --- checkpoints ---------------------------------------------------------------------------------


def _from_checkpoint(model: nn.Module, checkpoint: Checkpoint, name: str) -> StateDict:
    """Return all backbone entries of a checkpoint. Raise CheckpointError if they do not fit the backbone of `model`."""
    if is_darknet_classifier(checkpoint):
        return _from_cfg(model, checkpoint, name)
    found = {key: value for key, value in checkpoint.weights.items() if key.startswith(BACKBONE_PREFIX)}
    if not found:
        raise CheckpointError(
            f"{name}: a detector of a Darknet cfg has no separate backbone; expected a classifier checkpoint"
        )
    backbone = copy.deepcopy(_get_backbone(model))
    load_weights(
        backbone, {key.removeprefix(BACKBONE_PREFIX): value for key, value in found.items()}, f"{name}: its backbone"
    )
    return found


def is_darknet_classifier(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is a classifier built from a Darknet cfg. Such a network has no module `backbone`."""
    model = checkpoint.config.get("model")
    return checkpoint.task == "classification" and isinstance(model, dict) and model.get("name") == "darknet"


def _from_cfg(model: nn.Module, checkpoint: Checkpoint, name: str) -> StateDict:
    """Return backbone entries from the first layers of a classifier built from a Darknet cfg. All shapes must match."""
    with SkipInit():
        recipe = recipe_from_checkpoint(checkpoint, name)
        classifier: Classifier = recipe.model.build(pretrained=False)  # type: ignore[assignment, call-arg]
    load_weights(classifier, checkpoint.weights, name)
    target = copy.deepcopy(model)
    source_layers, target_layers = layers_in_file_order(classifier), _backbone_layers(target)
    for source_layer, target_layer in itertools.zip_longest(source_layers, target_layers):
        if target_layer is None:
            break
        shapes = [
            None if layer is None else [tuple(part.shape) for _, part in layer.named_tensors]
            for layer in (source_layer, target_layer)
        ]
        if shapes[0] != shapes[1]:
            found = "the file's network ends" if source_layer is None else f"found {source_layer.name}, {shapes[0]}"
            raise CheckpointError(f"{name}: {target_layer.name}: expected {shapes[1]}, {found}; another backbone")
        with torch.no_grad():
            for (_, value), (_, tensor) in zip(source_layer.named_tensors, target_layer.named_tensors, strict=True):
                tensor.copy_(value)
    return _state_dict_entries(target, target_layers)


# --- Darknet's files -----------------------------------------------------------------------------


def _from_darknet(model: nn.Module, path: Path, *, backbone_only: bool) -> StateDict:
    """Return the entries of a Darknet file. It is read into a copy, so that a corrupt file does not change `model`."""
    target = copy.deepcopy(model)
    layers = _backbone_layers(target)
    surplus = (_count_floats(path) if path.is_file() else 0) - sum(layer.num_elements for layer in layers)
    if surplus > 0:
        layers = _append_following_layers(target, layers, surplus, path, backbone_only=backbone_only)
    result = read_weights(path, layers, partial=True)
    return _state_dict_entries(target, layers[: result.num_loaded])


def _backbone_layers(model: nn.Module) -> list[LayerWeights]:
    """Return the layers of the backbone in the order of the Darknet cfg."""
    backbone = _get_backbone(model)
    if isinstance(backbone, TimmBackbone):
        raise ConfigError(
            f"{TIMM_PREFIX}{backbone.model}: timm networks have no Darknet cfg that defines an order of the weights"
        )
    with SkipInit():
        classifier = BackboneClassifier(backbone, 1)  # type: ignore[arg-type]
    return layers_in_file_order(classifier)[:-1]


def _append_following_layers(
    model: nn.Module, layers: list[LayerWeights], surplus: int, path: Path, *, backbone_only: bool
) -> list[LayerWeights]:
    """Return `layers`, then the layers of the next `surplus` values: neck and head, or one classifier layer."""
    if "neck" in dict(model.named_children()) and not backbone_only:
        try:
            all_layers = layers_in_file_order(cast(Detector, model))
        except ConfigError:
            all_layers = layers
        if surplus + sum(layer.num_elements for layer in layers) in itertools.accumulate(
            layer.num_elements for layer in all_layers
        ):
            return all_layers
    channels = model.get_submodule("backbone").out_specs[-1].channels  # type: ignore[index, union-attr]
    num_classes, rest = divmod(surplus, channels + 1)
    if rest or num_classes > MAX_CLASSES:
        raise CheckpointError(
            f"{path}: has {surplus:,} values more than the backbone's {sum(layer.num_elements for layer in layers):,}, "
            f"which is not a classifier layer with {channels} input channels; the file is for another network"
        )
    last = (("bias", torch.empty(num_classes)), ("connections", torch.empty(num_classes, channels)))
    return [*layers, LayerWeights(f"classifier layer with {num_classes} classes", last)]


def _count_floats(path: Path) -> int:
    """Return the number of float32 values in a .weights file; the size of its header depends on the version."""
    with open_file(path) as file:
        start = file.read(8)
    major, minor = struct.unpack("<ii", start) if len(start) == 8 else (0, 2)
    return max(0, path.stat().st_size - (20 if 10 * major + minor >= 2 else 16)) // 4


def _state_dict_entries(model: nn.Module, layers: Sequence[LayerWeights]) -> StateDict:
    """Return the entries of the network's state dict that belong to the given layers."""
    data_ptrs = {tensor.data_ptr() for layer in layers for _, tensor in layer.named_tensors}
    return {key: value for key, value in model.state_dict().items() if value.data_ptr() in data_ptrs}
