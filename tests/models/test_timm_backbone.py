"""timm's backbones: their maps are timm's own, mistakes are told in a sentence, and the network is left alone."""

from __future__ import annotations

import socket
import sys

import pytest
import torch

from cspdet.config.loader import dump_config, parse_config
from cspdet.errors import ConfigError
from cspdet.models import build_backbone
from cspdet.models.backbones.config import TimmConfig, expand_timm_name
from cspdet.models.backbones.timm_backbone import load_pretrained
from cspdet.models.config import DetectorConfig

MODELS = ["resnet18", "mobilenetv3_small_050.lamb_in1k", "convnext_atto"]


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args):
        raise AssertionError("something wants to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def filled_weights(timm, monkeypatch):
    """timm as if its pretrained weights were all 0.01; the list tells which models were asked for them."""
    asked, create = [], timm.create_model

    def create_model(model, *, pretrained, **options):
        network = create(model, pretrained=False, **options)
        if pretrained:
            asked.append(model)
            for weights in network.parameters():
                torch.nn.init.constant_(weights, 0.01)
        return network

    monkeypatch.setattr(timm, "create_model", create_model)
    return asked


def build(model: str, **options):
    return TimmConfig(name="timm", model=model, **options).build()


def detector_config(**backbone):
    return parse_config({"backbone": backbone, "neck": {"name": "efm"}}, DetectorConfig, "test")


@pytest.mark.parametrize("model", MODELS)
def test_maps_are_those_of_timm(timm, no_network, model):
    torch.manual_seed(0)
    actual = build(model).eval()
    torch.manual_seed(0)
    theirs = timm.create_model(model, features_only=True, pretrained=False).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps, expected = actual(images), theirs(images)
    last = dict(zip(theirs.feature_info.reduction(), expected, strict=True))
    assert [spec.stride for spec in actual.out_specs] == [8, 16, 32]
    for x, spec in zip(maps, actual.out_specs, strict=True):
        assert x.shape == (2, spec.channels, 64 // spec.stride, 96 // spec.stride)
        assert torch.equal(x, last[spec.stride])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet5O", r"not a model of timm [\d.]+ \(did you mean 'resnet50'\?\)"),
        ("hf-hub:someone/something", "not a model of timm"),  # would fetch its description
        ("resnet18.a1_in2k", r"no weights of this tag \(did you mean 'resnet18.a1_in1k'\?\); valid: .*tv_in1k"),
        ("vit_tiny_patch16_224", "does not take images of any size"),
    ],
)
def test_models_that_cannot_be_built(timm, no_network, model, message):
    with pytest.raises(ConfigError, match=message):
        build(model)


def test_timm_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ConfigError, match=r"^backbone timm:resnet18: timm is not installed: pip install 'cspdet\[timm\]'$"
    ):
        build("resnet18")


def test_pretrained_weights_survive_the_initialization(filled_weights):
    detector = detector_config(name="timm:resnet18", pretrained=True).build(3)
    assert filled_weights == ["resnet18"]
    assert all((weights == 0.01).all() for weights in detector.backbone.parameters())
    assert not any((conv.weight == 0.01).any() for conv in detector.head.pred_convs)
    backbone = build_backbone("timm", model="resnet18", pretrained=True)
    assert all((weights == 0.01).all() for weights in backbone.parameters())


def test_fresh_weights_are_those_that_timm_draws(timm, no_network):
    torch.manual_seed(0)
    theirs = timm.create_model("convnext_atto", features_only=True, pretrained=False).state_dict()
    torch.manual_seed(0)
    actual = detector_config(name="timm:convnext_atto").build(3).backbone.network.state_dict()
    assert all(torch.equal(actual[name], theirs[name]) for name in theirs)


def test_pretrained_weights_are_fetched_only_where_they_are_used(filled_weights):
    detector_config(name="timm:resnet18").build(3)
    pretrained = detector_config(name="timm:resnet18", pretrained=True)
    pretrained.build(3, pretrained=False)  # a checkpoint's weights follow
    with torch.device("meta"):
        pretrained.build(3)  # counting
    assert filled_weights == []


def test_pretrained_weights_that_cannot_be_had(timm, monkeypatch):
    create = timm.create_model

    def unplugged(model, *, pretrained, **options):
        if pretrained:
            raise OSError("No route to host\nand how to plug it in")
        return create(model, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", unplugged)
    with pytest.raises(ConfigError, match=r"pretrained weights cannot be downloaded \(No route to host\)$"):
        load_pretrained(build("resnet18", pretrained=True))
    with pytest.raises(ConfigError, match="resnetblur18: has no pretrained weights"):
        load_pretrained(build("resnetblur18", pretrained=True))


def test_the_short_name():
    assert expand_timm_name({"name": "timm:a.b", "pretrained": True}) == {
        "name": "timm",
        "model": "a.b",
        "pretrained": True,
    }
    for other in ({"name": "peleenet"}, {"name": "timm", "model": "a"}, {"name": 3}, {}, "timm:a", None):
        assert expand_timm_name(other) is other
    config = detector_config(name="timm:resnet18")
    assert config.backbone == TimmConfig(name="timm", model="resnet18")
    assert "name: timm\n  weights: null\n  model: resnet18" in dump_config(config)
    with pytest.raises(ConfigError, match=r"backbone\.model: already given by the name"):
        detector_config(name="timm:resnet18", model="resnet18")
    with pytest.raises(ConfigError, match=r"pretraind: unknown key \(did you mean 'pretrained'\?\)"):
        detector_config(name="timm:resnet18", pretraind=True)
    with pytest.raises(ConfigError, match=r"unknown backbone 'tim'.*timm"):
        detector_config(name="tim")
