"""Normalizations folded into convolutions: the same function with fewer layers."""

from __future__ import annotations

import copy

import pytest
import torch
from darknet_data import TINY
from engine_data import ROOT, as_if_trained, random_images, small_detector
from torch import Tensor, nn

from cspdet.checkpoints.building import build_classifier
from cspdet.config.loader import load_config
from cspdet.darknet.cfg import parse_cfg
from cspdet.darknet.network import DarknetDetector
from cspdet.models.fuse import fuse_conv_bn, fuse_norm_into_layer
from cspdet.recipe import ClassificationRecipe


def normalizations(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def small_classifier() -> nn.Module:
    recipe = load_config(ROOT / "configs/classification/darknetref.yaml", ClassificationRecipe, ["model.num_classes=5"])
    return build_classifier(recipe, "darknetref")


NETWORKS = {
    "prn": lambda: small_detector().network,
    "sam": lambda: small_detector("csppelee_efm_sam").network,
    "classifier": small_classifier,
    "cfg": lambda: DarknetDetector(parse_cfg(TINY, "tiny.cfg")),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_computes_the_same_without_normalizations(name):
    model = NETWORKS[name]().eval().double()
    as_if_trained(model)
    before = copy.deepcopy(model.state_dict())
    folded = fuse_conv_bn(model)
    assert normalizations(model) > 0
    assert normalizations(folded) == 0
    images = random_images(2, 64, 64).double()
    with torch.no_grad():
        found, expected = folded(images), model(images)
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
        assert float((a - b).abs().max()) <= 1e-10 * float(b.abs().max())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the original stays"


def test_folded_numbers_of_a_layer():
    # s = g / sqrt(v + eps) = 4 / sqrt(3 + 1) = 2; w' = 3 s = 6; b' = (b - m) s + h = (7 - 1) 2 + 5 = 17
    layer, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=1.0)
    with torch.no_grad():
        for value, number in ((layer.weight, 3), (layer.bias, 7), (norm.weight, 4), (norm.bias, 5)):
            value.fill_(number)
        norm.running_mean.fill_(1)
        norm.running_var.fill_(3)
    folded = fuse_norm_into_layer(layer, norm)
    assert (float(folded.weight), float(folded.bias)) == (6.0, 17.0)


class ReadTwice(nn.Module):
    """The convolution's own output is wanted too, so that its normalization must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class Shared(nn.Module):
    """One convolution before two normalizations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.conv(self.norm(self.conv(x))))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) if x.sum() > 0 else x


@pytest.mark.parametrize(("network", "left"), [(ReadTwice(), 1), (Shared(), 0)])
def test_only_what_a_layer_alone_is_read_by_is_folded(network, left):
    as_if_trained(network.eval())
    folded = fuse_conv_bn(network)
    assert normalizations(folded) == left
    x = random_images(2)
    with torch.no_grad():
        assert torch.allclose(folded(x), network(x), atol=1e-5)


def test_what_cannot_be_traced_or_has_nothing_to_fuse_is_refused(log_capture):
    untraceable, plain = Untraceable().eval(), nn.Conv2d(3, 3, 1)
    assert fuse_conv_bn(untraceable) is None
    assert "not fused" in log_capture.text
    assert fuse_conv_bn(plain) is None


def test_a_normalization_of_images_is_left_out_only_where_it_does_nothing():
    plain = fuse_conv_bn(small_detector().network)
    assert not any(node.name.startswith(("sub", "truediv")) for node in plain.graph.nodes)
    shifted = small_detector("yolov3_tiny_prn", "model.normalize={mean: [0.5, 0.4, 0.3], std: [0.2, 0.3, 0.4]}").network
    with torch.no_grad():
        for a, b in zip(fuse_conv_bn(shifted)(random_images(1)), shifted(random_images(1)), strict=True):
            assert torch.allclose(a, b, atol=1e-4)
