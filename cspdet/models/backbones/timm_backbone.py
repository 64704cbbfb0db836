"""Backbones of timm (PyTorch Image Models) that can return feature maps for images of any size.

    backbone: {name: timm:resnet50.a1_in1k, pretrained: true}
    backbone: {name: timm:resnet50, weights: timm:resnet50.a1_in1k}         the same

    timm's features_only ── the last map of each of the strides 8, 16 and 32, if it exists

timm is optional: pip install 'cspdet[timm]'. The initialization of the weights is timm's. For pretrained weights, set
`model.normalize` to the mean and std of the timm model. Only `load_pretrained` and `pretrained_state_dict` download
weights.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError, describe_import_error, did_you_mean
from cspdet.models.backbones.config import TimmConfig
from cspdet.models.base_config import TIMM_PREFIX
from cspdet.structures import Features, FeatureSpec

STRIDES = (8, 16, 32)
PROBE_HW = (256, 320)  # image size for checking the outputs


class TimmBackbone(nn.Module):
    """Backbone of timm: (B, 3, H, W) -> the feature maps of strides 8, 16 and 32, finest first.

    Maps that the timm model does not have are omitted. H and W are multiples of the last stride.
    """

    skip_init_weights = True  # timm initializes the weights

    def __init__(self, config: TimmConfig):
        super().__init__()
        self.model, self.pretrained = config.model, config.pretrained
        self.network = _create(config.model, pretrained=False)
        channels, strides = self.network.feature_info.channels(), self.network.feature_info.reduction()
        index_of_stride = {stride: i for i, stride in enumerate(strides)}  # the last map of each stride
        self.out_indices = tuple(index_of_stride[stride] for stride in STRIDES if stride in index_of_stride)
        self.out_specs = tuple(FeatureSpec(channels[i], strides[i]) for i in self.out_indices)
        if not self.out_specs:
            raise _error(config.model, f"has no map at stride 8, 16 or 32, but at {', '.join(map(str, strides))}")
        self._validate_outputs()

    def forward(self, image: Tensor) -> Features:
        """Return the feature maps, finest first."""
        maps = self.network(image)
        return tuple(maps[i] for i in self.out_indices)

    def load_pretrained(self) -> None:
        """Load timm's pretrained weights, from the local cache or by a download.

        Raises:
            ConfigError: The model has no pretrained weights, or they cannot be downloaded.
        """
        self.load_state_dict(self.pretrained_state_dict(self.model))

    def pretrained_state_dict(self, model: str) -> dict[str, Tensor]:
        """Return the pretrained weights of a timm model as a state dict of this module.

        The weights are read from the local cache, or downloaded.

        Raises:
            ConfigError: `model` has another architecture than this backbone, there are no such weights, or they cannot
                be downloaded.
        """
        if model.partition(".")[0] != self.model.partition(".")[0]:
            raise _error(
                model, f"is another architecture; expected {self.model.partition('.')[0]}, with or without a tag"
            )
        return {f"network.{key}": value for key, value in _create(model, pretrained=True).state_dict().items()}

    def state_dict_from_file(self, path: Path) -> dict[str, Tensor]:
        """Return the weights of a file that timm published (`.safetensors`) as a state dict of this module.

        Raises:
            ConfigError: The file is missing or damaged, or has the weights of another architecture.
        """
        network = _create(self.model, pretrained=True, file=path)
        return {f"network.{key}": value for key, value in network.state_dict().items()}

    @torch.no_grad()
    def _validate_outputs(self) -> None:
        """Raise ConfigError if the output shapes differ from the declared shapes.

        Some transformers need a fixed input size, or return (B, H, W, C).
        """
        probe = copy.deepcopy(self).to("meta").eval()
        try:
            maps = probe(torch.zeros(1, 3, *PROBE_HW, device="meta"))
        except Exception as error:
            raise _error(self.model, f"does not take images of any size ({_reason(error)})") from None
        for x, spec in zip(maps, self.out_specs, strict=True):
            expected = (1, spec.channels, PROBE_HW[0] // spec.stride, PROBE_HW[1] // spec.stride)
            if tuple(x.shape) != expected:
                raise _error(self.model, f"declares maps of shape {expected}, but returns {tuple(x.shape)}")


def load_pretrained(network: nn.Module) -> None:
    """Load the weights of every timm backbone with `pretrained: true` that is not on the meta device.

    Raises:
        ConfigError: A model has no pretrained weights, or they cannot be downloaded.
    """
    for part in network.modules():
        if isinstance(part, TimmBackbone) and part.pretrained and not next(part.parameters()).is_meta:
            part.load_pretrained()


def _create(model: str, *, pretrained: bool, file: Path | None = None) -> Any:
    """Create a timm network that returns feature maps; raise ConfigError if this is impossible.

    Args:
        model: Name of the timm model.
        pretrained: Load pretrained weights.
        file: The file of the pretrained weights; None: timm reads its cache, or downloads them.
    """
    try:
        import timm
    except ImportError as error:
        reason = describe_import_error("timm", error)
        raise _error(model, f"{reason}: pip install 'cspdet[timm]'") from None
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise _error(model, f"not a model of timm {timm.__version__}{did_you_mean(architecture, timm.list_models())}")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and model not in tagged:
        known = f"; valid: {', '.join(tagged)}" if tagged else ""
        raise _error(model, f"timm {timm.__version__} has no weights of this tag{did_you_mean(model, tagged)}{known}")
    if pretrained and not tagged and file is None:
        raise _error(model, "has no pretrained weights; omit `pretrained`")
    try:
        overlay = None if file is None else {"file": str(file)}
        return timm.create_model(model, features_only=True, pretrained=pretrained, pretrained_cfg_overlay=overlay)
    except Exception as error:  # timm, its hub client and the network raise unrelated classes
        failure = "its pretrained weights cannot be downloaded" if pretrained else "cannot return feature maps"
        if file is not None:
            failure = f"cannot load the weights of {file}"
        raise _error(model, f"{failure} ({_reason(error)})") from None


def _error(model: str, message: str) -> ConfigError:
    return ConfigError(f"backbone {TIMM_PREFIX}{model}: {message}")


def _reason(error: Exception) -> str:
    """Return the first sentence of an error message of another library."""
    return (str(error).splitlines() or [""])[0].split(". ")[0].rstrip(".")[:200] or type(error).__name__
