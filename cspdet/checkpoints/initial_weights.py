"""Initial weights from another network: entries with equal name and shape are loaded, and other entries are logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from cspdet.checkpoints.class_matching import ClassMatch, has_class_outputs, match_class_outputs
from cspdet.checkpoints.load_report import TransferReport
from cspdet.checkpoints.pretrained import has_backbone, is_darknet_classifier, load_backbone_weights, names_checkpoint
from cspdet.errors import CheckpointError
from cspdet.io.checkpoint import check_finite, load_checkpoint
from cspdet.zoo.cache import resolve_model


def load_initial_weights(model: nn.Module, weights: str | Path, class_names: Sequence[str] = ()) -> TransferReport:
    """Load initial weights (option `--weights`) into a network.

    `load_backbone_weights` loads Darknet files, weights of timm, and checkpoints of Darknet classifiers.

    Args:
        model: The network into which the weights are loaded.
        weights: A checkpoint, a file that `load_backbone_weights` reads, timm:NAME, or the name of a downloaded model.
        class_names: Class names of the data, to match the class outputs of a checkpoint. Empty: match them by index.

    Returns:
        The report of loaded entries.

    Raises:
        CheckpointError, ConfigError: The file is missing or corrupt, or no entry matches.
    """
    weights = resolve_model(weights)
    if not names_checkpoint(weights):
        return load_backbone_weights(model, weights, backbone_only=False)
    checkpoint = load_checkpoint(weights)
    if has_backbone(model) and is_darknet_classifier(checkpoint):
        return load_backbone_weights(model, weights)
    match = ClassMatch.by_name(class_names, checkpoint.categories.names) if class_names else None
    return transfer(model, checkpoint.weights, str(weights), match)


def transfer(
    model: nn.Module, weights: dict[str, Tensor], source: str, match: ClassMatch | None = None
) -> TransferReport:
    """Load all entries with equal name and shape into a network. Log the other entries, and return a report.

    Args:
        model: The network into which the weights are loaded.
        weights: The state dict of the other network.
        source: Name of the file, for log and error messages.
        match: The classes of the data and of the file; None: the outputs of classes are loaded by index.

    Raises:
        CheckpointError: No entry matches, or a value is not finite.
    """
    model_state = model.state_dict()
    by_class = {}
    if match is not None and not match.is_identity:
        by_class = match_class_outputs(model, getattr(model, "class_layers", ()), weights, match)
    fitting = {
        name: value
        for name, value in (weights | by_class).items()
        if name in model_state and model_state[name].shape == value.shape
    }
    if not fitting:
        raise CheckpointError(f"{source}: none of its {len(weights)} entries fits the network by name and shape")
    check_finite(fitting, source)
    model.load_state_dict(fitting, strict=False)
    report = TransferReport.compare(model, weights, source, by_class)
    report.log_summary()
    if match is not None and has_class_outputs(model, fitting):
        report = replace(report, classes=match.matched_names)
    if match is not None and by_class:
        match.log_summary(source)
    return report
