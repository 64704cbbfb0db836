"""Any backbone of timm (PyTorch Image Models) that gives feature maps of pictures of any size.

    backbone: {name: timm:resnet50.a1_in1k, pretrained: true}
    backbone: {name: timm:resnet50, weights: timm:resnet50.a1_in1k}         the same, as `--weights` gives it

    timm's features_only ── of its maps the last one at each of the strides 8, 16, 32 that exist

timm is optional: pip install 'cspdet[timm]'. The maps are timm's own, as are the initial weights. Pretrained weights
were made for pictures normalized by timm's mean and std, which `model.normalize` must then give; they are fetched by
`load_pretrained`, and nothing else here uses the network.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cspdet.errors import ConfigError, did_you_mean
from cspdet.models.backbones.config import TimmConfig
from cspdet.models.base_config import TIMM_PREFIX
from cspdet.structures import Features, FeatureSpec

STRIDES = (8, 16, 32)
PROBE_HW = (256, 320)  # of the picture that a model must be able to take


class TimmBackbone(nn.Module):
    """(B, 3, H, W) -> timm's maps at strides 8, 16, 32, those that exist, finest first; multiples of the coarsest."""

    skip_init_weights = True  # its weights are as timm draws or loads them; not to be drawn anew

    def __init__(self, config: TimmConfig):
        super().__init__()
        self.model, self.pretrained = config.model, config.pretrained
        self.network = _create(config.model, pretrained=False)
        channels, strides = self.network.feature_info.channels(), self.network.feature_info.reduction()
        index_of_stride = {stride: i for i, stride in enumerate(strides)}  # the last map of each
        self.out_indices = tuple(index_of_stride[stride] for stride in STRIDES if stride in index_of_stride)
        self.out_specs = tuple(FeatureSpec(channels[i], strides[i]) for i in self.out_indices)
        if not self.out_specs:
            raise _error(config.model, f"has no map at stride 8, 16 or 32, but at {', '.join(map(str, strides))}")
        self._validate_outputs()

    def forward(self, image: Tensor) -> Features:
        maps = self.network(image)
        return tuple(maps[i] for i in self.out_indices)

    def load_pretrained(self) -> None:
        """Take over timm's pretrained weights: from the cache of their hub, or from the network.

        Raises:
            ConfigError: there are none, or they cannot be fetched.
        """
        self.load_state_dict(self.pretrained_state_dict(self.model))

    def pretrained_state_dict(self, model: str) -> dict[str, Tensor]:
        """timm's pretrained weights of this architecture, as entries of this module, from its hub's cache or the hub.

        Raises:
            ConfigError: `model` is another architecture, has no such weights, or they cannot be fetched.
        """
        if model.partition(".")[0] != self.model.partition(".")[0]:
            raise _error(
                model, f"is another architecture; expected {self.model.partition('.')[0]}, with or without a tag"
            )
        return {f"network.{key}": value for key, value in _create(model, pretrained=True).state_dict().items()}

    @torch.no_grad()
    def _validate_outputs(self) -> None:
        """Hold the model to what it declares, on the meta device: transformers may insist on one size, or on NHWC."""
        probe = copy.deepcopy(self).to("meta").eval()
        try:
            maps = probe(torch.zeros(1, 3, *PROBE_HW, device="meta"))
        except Exception as error:
            raise _error(self.model, f"does not take pictures of any size ({_reason(error)})") from None
        for x, spec in zip(maps, self.out_specs, strict=True):
            expected = (1, spec.channels, PROBE_HW[0] // spec.stride, PROBE_HW[1] // spec.stride)
            if tuple(x.shape) != expected:
                raise _error(self.model, f"declares maps of shape {expected}, but gives {tuple(x.shape)}")


def load_pretrained(network: nn.Module) -> None:
    """Fetch the weights of every part that asks for them by `pretrained: true`; nothing is done on the meta device.

    Raises:
        ConfigError: there are none, or they cannot be fetched.
    """
    for part in network.modules():
        if isinstance(part, TimmBackbone) and part.pretrained and not next(part.parameters()).is_meta:
            part.load_pretrained()


def _create(model: str, *, pretrained: bool) -> Any:
    """timm's network for the maps, with every reason against it as a ConfigError."""
    try:
        import timm
    except ImportError:
        raise _error(model, "needs timm, which is not installed: pip install 'cspdet[timm]'") from None
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise _error(model, f"is no model of timm {timm.__version__}{did_you_mean(architecture, timm.list_models())}")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and model not in tagged:
        known = f"; valid: {', '.join(tagged)}" if tagged else ""
        raise _error(model, f"timm {timm.__version__} has no weights of this tag{did_you_mean(model, tagged)}{known}")
    if pretrained and not tagged:
        raise _error(model, "has no pretrained weights; leave `pretrained` out")
    try:
        return timm.create_model(model, features_only=True, pretrained=pretrained)
    except Exception as error:  # of timm, of the hub's client, of the network: their types are many, and no contract
        failure = "its pretrained weights cannot be fetched" if pretrained else "cannot give feature maps"
        raise _error(model, f"{failure} ({_reason(error)})") from None


def _error(model: str, message: str) -> ConfigError:
    return ConfigError(f"backbone {TIMM_PREFIX}{model}: {message}")


def _reason(error: Exception) -> str:
    """The first sentence of what another library says."""
    return (str(error).splitlines() or [""])[0].split(". ")[0].rstrip(".")[:200] or type(error).__name__
