"""Outputs of class layers that are not trained, so that a detector learns new classes without changing the old ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError, did_you_mean


class KeptOutputs:
    """The outputs of some classes, and the outputs for boxes and objectness, in all class layers of a network.

    Call `mask_gradients` before each optimizer step, and `restore` after it. Then the weights of these outputs stay
    bit-identical, in spite of momentum and weight decay.
    """

    def __init__(self, model: nn.Module, class_names: Sequence[str], keep: Sequence[str]):
        """Store the weights of the kept outputs.

        Args:
            model: The network.
            class_names: Class names of the data.
            keep: Names of the classes whose outputs are kept.

        Raises:
            ConfigError: A class does not exist, no class is left to train, or the network has no class layers.
        """
        unknown = [name for name in keep if name not in class_names]
        if unknown:
            hint = did_you_mean(unknown[0], class_names)
            raise ConfigError(f"train.keep_classes: the data has no class {unknown[0]!r}{hint}")
        layers = getattr(model, "class_layers", ())
        if not layers or len(set(keep)) == len(class_names):
            reason = "no class is left to train" if layers else "the network declares no class_layers"
            raise ConfigError(f"train.keep_classes: {reason}")
        kept = [name in keep for name in class_names]
        self._rows: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for layer in layers:
            per_anchor = torch.tensor([True] * layer.num_other + kept)
            for parameter in layer.module.parameters(recurse=False):
                rows = per_anchor.repeat(len(parameter) // len(per_anchor)).to(parameter.device)
                self._rows.append((parameter, rows, parameter.detach()[rows].clone()))

    def mask_gradients(self) -> None:
        """Set the gradients of the weights of the kept outputs to 0."""
        for parameter, rows, _ in self._rows:
            if parameter.grad is not None:
                parameter.grad[rows] = 0

    def store(self) -> None:
        """Store the present weights of the kept outputs. Call this after weights were loaded into the network."""
        self._rows = [(parameter, rows, parameter.detach()[rows].clone()) for parameter, rows, _ in self._rows]

    @torch.no_grad()
    def restore(self) -> None:
        """Set the weights of the kept outputs to the stored values."""
        for parameter, rows, values in self._rows:
            parameter[rows] = values
