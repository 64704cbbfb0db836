"""Initial weights from another network: entries with equal name and shape are loaded, and other entries are logged."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from cspdet.checkpoints.load_report import TransferReport
from cspdet.checkpoints.pretrained import has_backbone, is_darknet_classifier, load_backbone_weights
from cspdet.errors import CheckpointError
from cspdet.io.checkpoint import check_finite, load_checkpoint
from cspdet.zoo.cache import resolve_model


def load_initial_weights(model: nn.Module, weights: str | Path) -> TransferReport:
    """Load initial weights (option `--weights`) into a network.

    From a checkpoint, all entries with equal name and shape are loaded. For the checkpoint of a Darknet classifier, and
    for all other files, `load_backbone_weights` is called.

    Args:
        model: The network into which the weights are loaded.
        weights: A checkpoint (`.pt`), a Darknet `.weights` or `.conv.N` file, a `.safetensors` file of timm, timm:NAME,
            or the name of a downloaded model of `cspdet zoo`.

    Returns:
        The report of loaded entries.

    Raises:
        CheckpointError, ConfigError: The file is missing or corrupt, or no entry matches.
    """
    weights = resolve_model(weights)
    if weights.suffix != ".pt":
        return load_backbone_weights(model, weights, backbone_only=False)
    checkpoint = load_checkpoint(weights)
    if has_backbone(model) and is_darknet_classifier(checkpoint):
        return load_backbone_weights(model, weights)
    return transfer(model, checkpoint.weights, str(weights))


def transfer(model: nn.Module, weights: dict[str, Tensor], source: str) -> TransferReport:
    """Load all entries with equal name and shape into a network. Log the other entries, and return a report.

    Args:
        model: The network into which the weights are loaded.
        weights: The state dict of the other network.
        source: Name of the file, for log and error messages.

    Raises:
        CheckpointError: No entry matches, or a value is not finite.
    """
    model_state = model.state_dict()
    fitting = {
        name: value for name, value in weights.items() if name in model_state and model_state[name].shape == value.shape
    }
    if not fitting:
        raise CheckpointError(f"{source}: none of its {len(weights)} entries fits the network by name and shape")
    check_finite(fitting, source)
    model.load_state_dict(fitting, strict=False)
    report = TransferReport.compare(model, weights, source)
    report.log_summary()
    return report
