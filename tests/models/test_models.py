"""The contract that every config keeps: one network at a time, built once, through every check."""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import GOLDEN
from torch import Tensor, nn

from cspdet.config.loader import load_config
from cspdet.models import Classifier, Detector
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, load_recipe
from cspdet.structures import Features, FeatureSpec, Targets
from cspdet.training.config import OptimizerConfig
from cspdet.training.losses.yolo import yolo_loss
from cspdet.training.schedule import build_optimizer

ROOT = Path(__file__).parents[2]
DETECTORS = sorted((ROOT / "configs").glob("*.yaml"))
CLASSIFIERS = sorted((ROOT / "configs/classification").glob("*.yaml"))
CLASSES = 3
# Height, width. Multiples of 64, which the elastic networks and Darknet Reference need; the others take those of 32.
SIZES = [(64, 128), (128, 64)]

LEARNED = (nn.Conv2d, nn.Linear)

Network = Detector | Classifier


def read(path: Path) -> DetectionRecipe | ClassificationRecipe:
    return load_config(path, ClassificationRecipe if path in CLASSIFIERS else DetectionRecipe)


def build(recipe: DetectionRecipe | ClassificationRecipe, seed: int) -> Network:
    """The network with fresh weights; its normalization has moments of its own, which a new one's has not."""
    torch.manual_seed(seed)
    model: Network
    if isinstance(recipe, ClassificationRecipe):
        model = recipe.model.model_copy(update={"num_classes": CLASSES}).build()
    else:
        model = recipe.model.build(CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.25)
    return model.eval()


def outputs(model: Network, images: Tensor) -> tuple[Tensor, ...]:
    """What a network gives, without gradient, as a tuple whatever its kind."""
    with torch.no_grad():
        out = model(images)
    return out if isinstance(out, tuple) else (out,)


def random_images(size_hw: tuple[int, int], count: int = 2) -> Tensor:
    return torch.rand(count, 3, *size_hw, generator=torch.Generator().manual_seed(0))


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference as a share of the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def parameter(path: Path):
    """A config with its id; the large ones take more than two seconds."""
    golden = GOLDEN.get(path.stem)
    large = golden is None or golden.conv_weights > 15e6
    return pytest.param(path, id=f"{path.parent.name}-{path.stem}", marks=[pytest.mark.e2e] if large else [])


@pytest.fixture(scope="module", params=[parameter(path) for path in (*DETECTORS, *CLASSIFIERS)])
def recipe(request: pytest.FixtureRequest) -> DetectionRecipe | ClassificationRecipe:
    return read(request.param)


@pytest.fixture(scope="module")
def network(recipe: DetectionRecipe | ClassificationRecipe) -> Network:
    """pytest runs all checks of one config before it builds the next, so that one network is held at a time."""
    return build(recipe, seed=0)


class Step(NamedTuple):
    """What one training step did."""

    model: Network
    loss: Tensor
    without_gradient: list[str]
    unchanged: list[str]
    not_finite: list[str]


def loss_of(model: Network, recipe: DetectionRecipe | ClassificationRecipe, images: Tensor) -> Tensor:
    """The training loss: of random boxes in all sizes, or of random classes."""
    if isinstance(model, Classifier):
        return F.cross_entropy(model(images), torch.arange(len(images)) % CLASSES)
    assert isinstance(recipe, DetectionRecipe)
    height, width = images.shape[2:]
    center = torch.rand(16, 2) * torch.tensor((width, height))
    half = torch.logspace(0.3, 1.8, 16)[:, None] * (0.7 + 0.6 * torch.rand(16, 2))
    targets = Targets(
        torch.arange(16) % len(images),
        torch.randint(CLASSES, (16,)),
        torch.cat((center - half, center + half), dim=1),
        torch.zeros(16, dtype=torch.bool),
    )
    return yolo_loss(model(images), targets, model.anchors, recipe.train.loss, recipe.train.assigner.build()).total


@pytest.fixture(scope="module")
def step(recipe: DetectionRecipe | ClassificationRecipe) -> Step:
    """One step of the config's own optimizer, but without decay, which moves a weight that learns nothing."""
    model = build(recipe, seed=1).train()
    weights = {f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, LEARNED)}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    config = recipe.train.optimizer if isinstance(recipe, DetectionRecipe) else OptimizerConfig()
    optimizer = build_optimizer(model, config.model_copy(update={"weight_decay": 0.0}))
    loss = loss_of(model, recipe, random_images(SIZES[0]))
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or math.inf)
    optimizer.step()
    return Step(
        model.eval(),
        loss.detach(),
        without,
        [name for name, weight in weights.items() if torch.equal(weight, before[name])],
        [name for name, p in model.state_dict().items() if not p.isfinite().all()],
    )


def shapes(maps: Features) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in maps]


def declared(specs: tuple[FeatureSpec, ...], size_hw: tuple[int, int]) -> list[tuple[int, ...]]:
    return [(2, spec.channels, size_hw[0] // spec.stride, size_hw[1] // spec.stride) for spec in specs]


@pytest.mark.parametrize("size_hw", SIZES)
def test_declared_shapes_are_the_real_ones(network, size_hw):
    images = random_images(size_hw)
    with torch.no_grad():
        features = network.backbone(images)
    assert shapes(features) == declared(network.backbone.out_specs, size_hw)
    assert [spec.stride for spec in network.backbone.out_specs] == sorted(
        {spec.stride for spec in network.backbone.out_specs}
    )
    if isinstance(network, Classifier):
        assert shapes(outputs(network, images)) == [(2, CLASSES)]
        return
    with torch.no_grad():
        assert shapes(network.neck(features)) == declared(network.neck.out_specs, size_hw)
    assert network.strides == tuple(spec.stride for spec in network.neck.out_specs)
    assert shapes(outputs(network, images)) == [
        (2, 3, size_hw[0] // stride, size_hw[1] // stride, 5 + CLASSES) for stride in network.strides
    ]


def test_a_batch_of_two_is_two_batches_of_one(network):
    exact, images = copy.deepcopy(network).double(), random_images(SIZES[0]).double()
    together = outputs(exact, images)
    apart = [outputs(exact, image[None]) for image in images]
    for level, parts in zip(together, zip(*apart, strict=True), strict=True):
        assert difference(level, torch.cat(parts)) < 1e-12


def test_state_survives_a_round_trip(network, step):
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = step.model
    images = random_images(SIZES[0], 1)
    assert difference(outputs(other, images)[0], outputs(network, images)[0]) > 1e-3
    other.load_state_dict(torch.load(file, weights_only=True))
    for a, b in zip(outputs(other, images), outputs(network, images), strict=True):
        assert torch.equal(a, b)


def test_one_step_of_training_moves_every_convolution(step):
    assert step.loss.isfinite()
    assert step.not_finite == []
    assert step.unchanged == []


def test_every_parameter_gets_a_gradient(step):
    assert step.without_gradient == []


@pytest.mark.e2e
# The exporter says that it is the old one; the new one, torch.export, cannot prove that the strides divide the size.
@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1 can be constant folded:UserWarning")
# A partial shortcut compares strides and channels, which are the same at every size.
@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean:torch.jit.TracerWarning")
def test_onnx_gives_the_same_numbers_at_any_size(network):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = io.BytesIO()
    names = [f"output{i}" for i in range(len(outputs(network, random_images(SIZES[0], 1))))]
    torch.onnx.export(
        network,
        (random_images(SIZES[0], 1),),
        file,
        dynamo=False,
        opset_version=17,
        input_names=["images"],
        output_names=names,
        dynamic_axes={"images": {0: "batch", 2: "height", 3: "width"}},
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    for size_hw in SIZES:
        images = random_images(size_hw)
        exported = session.run(names, {"images": images.numpy()})
        for a, b in zip(exported, outputs(network, images), strict=True):
            assert difference(torch.from_numpy(np.asarray(a)), b) < 1e-4


def test_normalization_lives_in_the_model():
    plain = load_recipe(DETECTORS[0])
    shifted = load_recipe(DETECTORS[0], ["model.normalize.mean=[0.5,0.5,0.5]", "model.normalize.std=[0.25,0.25,0.25]"])
    models = [build(recipe, seed=0) for recipe in (plain, shifted)]
    images = random_images(SIZES[0], 1)
    for a, b in zip(outputs(models[0], (images - 0.5) / 0.25), outputs(models[1], images), strict=True):
        torch.testing.assert_close(a, b)


def test_the_row_of_another_loss_differs_in_nothing_else():
    """A section is either a file or written out, so the recipe stands in this config a second time."""
    giou = load_recipe(ROOT / "configs/csppelee_efm_giou.yaml")
    assert giou == load_recipe(ROOT / "configs/csppelee_efm.yaml", ["train.loss.box=giou"])
