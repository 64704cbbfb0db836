"""A backbone's first weights, from whatever holds some: our checkpoints, Darknet's classifiers, timm.

x.pt                      a classifier's or detector's checkpoint: its backbone, which has to be the same one
x.weights, x.conv.N       Darknet's: the first layers are the backbone's, in the order of the official cfg
timm:NAME                 for a backbone of timm of that name, with or without a tag of its weights
"""

from __future__ import annotations

import copy
import itertools
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cspdet.checkpoints.load_report import TransferReport
from cspdet.darknet.model import DarknetClassifierConfig
from cspdet.darknet.weight_order import numbers_of
from cspdet.darknet.weights import FreshWeightsUndrawn, Numbers, read_weights
from cspdet.errors import CheckpointError, ConfigError
from cspdet.io.checkpoint import Checkpoint, load_checkpoint, load_weights
from cspdet.models.backbones.base import TIMM
from cspdet.models.backbones.timm_backbone import TimmBackbone
from cspdet.models.classifier import BackboneClassifier
from cspdet.models.detector import PartsDetector

Weights = dict[str, Tensor]  # entries of a state dict

DARKNET_FILE = re.compile(r"\.weights$|\.conv\.\d+$")
MOST_CLASSES = 100_000  # of the last layer of a classifier's file
PREFIX = "backbone."


def load_backbone_weights(model: nn.Module, weights: str | Path, *, backbone_only: bool = True) -> TransferReport:
    """Put `weights` into the backbone of a network of parts; what was taken is logged, part by part, and returned.

    Without `backbone_only`, a Darknet file of the first layers of the detector's own cfg fills those of the neck, too.

    Raises:
        CheckpointError: missing, damaged, or of another backbone: what was expected, and found.
        ConfigError: timm has no such weights, or the network has no backbone that could take any.
    """
    name = source_name(weights)
    if not isinstance(model, (PartsDetector, BackboneClassifier)):
        raise ConfigError(f"{name}: holds a backbone, which the network of a cfg has not; expected its own checkpoint")
    if name.startswith(TIMM):
        values = _of_timm(model, name)
    elif Path(name).suffix == ".pt":
        values = _of_checkpoint(model, load_checkpoint(name), name)
    elif DARKNET_FILE.search(name):
        values = _of_darknet(model, Path(name), backbone_only=backbone_only)
    else:
        raise CheckpointError(f"{name}: expected a checkpoint (.pt), Darknet's .weights or .conv.N, or {TIMM}NAME")
    model.load_state_dict(values, strict=False)
    report = TransferReport.of(model, values, name)
    report.tell()
    return report


def source_name(weights: str | Path) -> str:
    """What names a source of weights: a path, or timm:NAME, which is none."""
    return Path(weights).name if Path(weights).name.startswith(TIMM) else str(weights)


def _backbone(model: nn.Module) -> nn.Module:
    backbone = model.get_submodule("backbone")
    assert isinstance(backbone, nn.Module)
    return backbone


# --- timm ----------------------------------------------------------------------------------------


def _of_timm(model: nn.Module, name: str) -> Weights:
    backbone = _backbone(model)
    if not isinstance(backbone, TimmBackbone):
        raise ConfigError(
            f"{name}: fits a backbone of timm only. timm's CSP networks make both parts of a stage with one "
            "convolution, join them in the other order, and differ in widths or in the slope of the activation; "
            f"timm's own takes its place: model.backbone={{name: {name}, pretrained: true}}"
        )
    values: Weights = backbone.weights_of(name.removeprefix(TIMM))
    return {f"{PREFIX}{key}": value for key, value in values.items()}


# --- checkpoints ---------------------------------------------------------------------------------


def _of_checkpoint(model: nn.Module, checkpoint: Checkpoint, name: str) -> Weights:
    """The backbone of a checkpoint, complete."""
    config = checkpoint.recipe.model
    if isinstance(config, DarknetClassifierConfig):
        return _of_cfg(model, checkpoint, name)
    found = {key: value for key, value in checkpoint.weights.items() if key.startswith(PREFIX)}
    if not found:
        raise CheckpointError(f"{name}: a detector of a cfg has no backbone apart; a classifier's checkpoint has")
    backbone = copy.deepcopy(_backbone(model))
    load_weights(backbone, {key.removeprefix(PREFIX): value for key, value in found.items()}, f"{name}: its backbone")
    return found


def _of_cfg(model: nn.Module, checkpoint: Checkpoint, name: str) -> Weights:
    """The first layers of a classifier that was imported as a cfg, where they are those of the backbone, one by one."""
    with FreshWeightsUndrawn():
        config = checkpoint.recipe.model
        assert isinstance(config, DarknetClassifierConfig)
        classifier = config.build(pretrained=False)
    load_weights(classifier, checkpoint.weights, name)
    target = copy.deepcopy(model)
    given, wanted = numbers_of(classifier), _layers(target)
    for there, here in itertools.zip_longest(given, wanted):
        if here is None:
            break
        shapes = [None if layer is None else [tuple(part.shape) for _, part in layer.parts] for layer in (there, here)]
        if shapes[0] != shapes[1]:
            found = "the file's network ends" if there is None else f"found {there.name}, {shapes[0]}"
            raise CheckpointError(f"{name}: {here.name}: expected {shapes[1]}, {found}; it is another backbone")
        with torch.no_grad():
            for (_, value), (_, place) in zip(there.parts, here.parts, strict=True):
                place.copy_(value)
    return _entries(target, wanted)


# --- Darknet's files -----------------------------------------------------------------------------


def _of_darknet(model: nn.Module, path: Path, *, backbone_only: bool) -> Weights:
    """The entries that a file fills: read into a copy, so that a damaged file changes nothing."""
    target = copy.deepcopy(model)
    layers = _layers(target)
    surplus = (_numbers_in(path) if path.is_file() else 0) - sum(layer.count for layer in layers)
    if surplus > 0:
        layers = _with_what_follows(target, layers, surplus, path, backbone_only=backbone_only)
    filled = read_weights(path, layers, partial=True)
    return _entries(target, layers[: filled.filled])


def _layers(model: nn.Module) -> list[Numbers]:
    """The numbers of the backbone, in the order of its cfg."""
    backbone = _backbone(model)
    if isinstance(backbone, TimmBackbone):
        raise ConfigError(
            f"{TIMM}{backbone.model}: there is no Darknet cfg of timm's networks that weights could follow"
        )
    with FreshWeightsUndrawn():
        classifier = BackboneClassifier(backbone, 1)  # type: ignore[arg-type]
    return numbers_of(classifier)[:-1]


def _with_what_follows(
    model: nn.Module, layers: list[Numbers], surplus: int, path: Path, *, backbone_only: bool
) -> list[Numbers]:
    """The layers of a file with more numbers than the backbone's: a classifier's last, or the detector's next."""
    if isinstance(model, PartsDetector) and not backbone_only:
        try:
            whole = numbers_of(model)
        except ConfigError:
            whole = layers
        if surplus + sum(layer.count for layer in layers) in itertools.accumulate(layer.count for layer in whole):
            return whole
    channels = model.get_submodule("backbone").out[-1].channels  # type: ignore[index, union-attr]
    classes, rest = divmod(surplus, channels + 1)
    if rest or classes > MOST_CLASSES:
        raise CheckpointError(
            f"{path}: holds {surplus:,} numbers more than the backbone's {sum(layer.count for layer in layers):,}, "
            f"which is no layer of classes after {channels} channels; the file is another network's"
        )
    last = (("bias", torch.empty(classes)), ("connections", torch.empty(classes, channels)))
    return [*layers, Numbers(f"the last layer, of {classes} classes", last)]


def _numbers_in(path: Path) -> int:
    """How many float32 stand behind the header, whose length follows from the version."""
    with path.open("rb") as file:
        start = file.read(8)
    major, minor = struct.unpack("<ii", start) if len(start) == 8 else (0, 2)
    return max(0, path.stat().st_size - (20 if 10 * major + minor >= 2 else 16)) // 4


def _entries(model: nn.Module, layers: Sequence[Numbers]) -> Weights:
    """The entries of the state dict that are the tensors of these layers."""
    places = {tensor.data_ptr() for layer in layers for _, tensor in layer.parts}
    return {key: value for key, value in model.state_dict().items() if value.data_ptr() in places}
