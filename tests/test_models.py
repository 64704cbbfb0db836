"""Contracts that every network keeps, and the published figures that ours must reproduce."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cspdet.complexity import count
from cspdet.errors import ConfigError
from cspdet.models import ClassifierConfig, Detector, build_backbone
from cspdet.models.backbones.csppeleenet import CSPPeleeNetConfig
from cspdet.models.blocks import SAM, Maxout
from cspdet.published import PUBLISHED
from cspdet.recipe import load_recipe

ROOT = Path(__file__).parents[1]
DETECTORS = sorted((ROOT / "configs").glob("*.yaml"))
CLASSES = 3

# conv and fc weights, BFLOPs at (size), largest layer's BFLOPs: reconstruction tables, to the digits given there
GOLDEN = {
    "csppelee_efm": (4_244_128, 4.8373, 416, 0.1994),
    "csppelee_efm_sam": (4_391_584, 5.0366, 416, 0.1994),
}
PELEENET_BFLOPS, PELEENET_LARGEST = 1.0166, 0.1028  # at 224: reproduces the published 1.017


def detector(path: Path, classes: int = CLASSES) -> Detector:
    torch.manual_seed(0)
    return load_recipe(path).model.build(classes)


def classifier_cost(**options):
    with torch.device("meta"):
        config = ClassifierConfig(backbone=CSPPeleeNetConfig(name="csppeleenet", **options))
        return count(config.build(), (224, 224))


@pytest.mark.parametrize("path", DETECTORS, ids=lambda path: path.stem)
def test_costs_are_those_of_the_reconstruction(path):
    weights, bflops, size, largest = GOLDEN[path.stem]  # a config without a row fails here
    with torch.device("meta"):
        cost = count(load_recipe(path).model.build(80), (size, size))
    assert cost.conv_weights == weights
    assert round(cost.bflops, 4) == bflops
    assert round(cost.largest_layer_bflops, 4) == largest
    published = PUBLISHED[path.stem]
    assert published.size == (size, size)
    assert cost.bflops == pytest.approx(published.bflops, rel=0.01)


def test_csppeleenet_counts_as_published():
    cost = classifier_cost()
    assert cost.conv_weights == 2_830_944
    assert round(cost.bflops, 4) == 0.8918
    assert cost.parameters == 2_843_720
    assert cost.largest_layer_bflops / PELEENET_LARGEST == pytest.approx(1 - 0.4375, abs=0.001)  # published: 44% less


@pytest.mark.parametrize(
    ("gamma", "fusion", "published"),
    [(0.5, "both", -0.13), (0.25, "both", -0.03), (0.5, "last", -0.21), (0.25, "last", -0.11), (0.5, "first", -0.26)],
)
def test_the_ablation_of_gamma_and_fusion(gamma, fusion, published):
    step = classifier_cost(gamma=gamma, fusion=fusion).bflops / PELEENET_BFLOPS - 1
    assert step == pytest.approx(published, abs=0.015)


@pytest.mark.parametrize("size_hw", [(64, 96), (160, 64)])
@pytest.mark.parametrize("path", DETECTORS, ids=lambda path: path.stem)
def test_declared_shapes_are_the_real_ones(path, size_hw):
    model = detector(path).eval()
    with torch.no_grad():
        features = model.backbone(torch.rand(2, 3, *size_hw))
        fused = model.neck(features)
        raw = model(torch.rand(2, 3, *size_hw))
    for maps, specs in ((features, model.backbone.out), (fused, model.neck.out)):
        for x, spec in zip(maps, specs, strict=True):
            assert x.shape == (2, spec.channels, size_hw[0] // spec.stride, size_hw[1] // spec.stride)
    for level, stride in zip(raw, model.strides, strict=True):
        assert level.shape == (2, 3, size_hw[0] // stride, size_hw[1] // stride, 5 + CLASSES)


@pytest.mark.parametrize("path", DETECTORS, ids=lambda path: path.stem)
def test_every_parameter_gets_a_gradient(path):
    model = detector(path).train()
    sum(level.square().sum() for level in model(torch.rand(2, 3, 64, 64))).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@pytest.mark.parametrize("path", DETECTORS, ids=lambda path: path.stem)
def test_a_batch_of_two_is_two_batches_of_one(path):
    model = detector(path).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        together = model(images)
        apart = [model(images[i : i + 1]) for i in range(2)]
    for level, parts in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(level, torch.cat(parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", DETECTORS, ids=lambda path: path.stem)
def test_state_survives_a_round_trip(path):
    first, second = detector(path).eval(), load_recipe(path).model.build(CLASSES).eval()
    second.load_state_dict(first.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(first(images), second(images), strict=True):
            assert torch.equal(a, b)


def test_normalization_lives_in_the_model():
    plain = load_recipe(DETECTORS[0])
    shifted = load_recipe(DETECTORS[0], ["model.normalize.mean=[0.5,0.5,0.5]", "model.normalize.std=[0.25,0.25,0.25]"])
    models = []
    for recipe in (plain, shifted):
        torch.manual_seed(0)
        models.append(recipe.model.build(1).eval())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(models[0]((images - 0.5) / 0.25), models[1](images), strict=True):
            torch.testing.assert_close(a, b)


def test_maxout_takes_strided_groups():
    # 6 channels to 2: output 0 of channels 0, 2, 4; output 1 of 1, 3, 5 (Darknet's maxpool_depth)
    x = torch.tensor([1.0, 9, 5, 2, 3, 4]).view(1, 6, 1, 1)
    assert Maxout(6, 2)(x).flatten().tolist() == [5, 9]
    with pytest.raises(ValueError, match="multiple"):
        Maxout(6, 4)


def test_sam_at_zero_gain_halves_its_input():
    sam = SAM(4).eval()
    torch.nn.init.zeros_(sam.gate.conv.weight)
    x = torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(sam(x), x / 2)


def test_a_dense_block_sees_only_its_part_of_the_split():
    """The carried part reaches the concatenation untouched: the gradient-flow claim of section 3 of the paper."""
    torch.manual_seed(0)
    stage = build_backbone("csppeleenet", gamma=0.25).stages[0].eval()
    x = torch.randn(1, 32, 8, 8)
    changed = x.clone()
    changed[:, :8] += 1  # the carried quarter
    out, other = stage(x), stage(changed)
    torch.testing.assert_close(out[:, :8], x[:, :8])
    torch.testing.assert_close(out[:, 8:], other[:, 8:])


def test_backbones_by_name():
    backbone = build_backbone("csppeleenet", fusion="last")
    assert [tuple(spec) for spec in backbone.out] == [(256, 8), (512, 16), (704, 32)]
    with pytest.raises(ConfigError, match="csppeleenet"):
        build_backbone("csppeleenett")
    with pytest.raises(ConfigError, match="gama: unknown key \\(did you mean 'gamma'\\?\\)"):
        build_backbone("csppeleenet", gama=0.5)
    with pytest.raises(ValueError, match="leaves one part of the split empty"):
        build_backbone("csppeleenet", gamma=0.001)
