"""Checkpoints of format `cspdet 1`: every released network's weights, the training state, and the config are read."""

from __future__ import annotations

import copy
import functools
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cspdet.checkpoints.loading import load_model
from cspdet.checkpoints.recipes import recipe_from_checkpoint
from cspdet.cli.main import main
from cspdet.config.aliases import RENAMED_KEYS
from cspdet.config.loader import load_config
from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.io.checkpoint import load_checkpoint
from cspdet.io.checkpoint_v1 import RENAMED_WEIGHTS, TIMM_PREFIX, upgrade_weights
from cspdet.models.blocks import ConvBN
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, recipe_to_dict
from cspdet.training.config import TrainConfig
from cspdet.training.state import TrainingState, TrainProgress

ROOT = Path(__file__).parents[2]

# The first digits of the SHA-256 of each config's sorted state-dict keys, one per line, in cspdet 1.
KEYS_OF_VERSION_1 = """
cspdarknet53_panet_spp f6549301e649
cspdensebref_prn 1decac014c4a
cspdenseref_efm_sam c27b61416dfb
csppelee_cem 21265d447cef
csppelee_cem_sam f01aac089c7a
csppelee_efm 6d7c0fd4e7d0
csppelee_efm_giou 6d7c0fd4e7d0
csppelee_efm_sam c00fdd772e62
csppelee_efm_spp 4dc83e63ad0e
csppelee_gfm 4330d9d1441f
csppelee_prn faee491360a8
csppelee_prn3l e570075d89e7
csppelee_prn_swish faee491360a8
csppeleeref_efm_sam da00dede9dec
csppeleeref_prn3l 3c90f98c69cf
cspresnet50_panet_spp 420843408828
cspresnext50_panet_spp 420843408828
cspresnext50_panet_spp_optimal 420843408828
cspresnext50_panet_spp_sam 2c39c1c00faf
pelee_fpn ae1fb7fc5e3b
pelee_prn f12ad637495a
pelee_prn3l 1fe4108fd38e
pelee_yolov3 a4d902c6688c
yolov3 d1859307d95e
yolov3_tiny 1649a8e24d62
yolov3_tiny_prn 88217e59ba4c
classification/cspdarknet53 ea03f5132813
classification/cspdarknet53_elastic a4bae289efc8
classification/cspdensebref 506825f26667
classification/cspdenseref aa5163374642
classification/cspmobilenetv2 766011054545
classification/csppeleebref 408753cfdebc
classification/csppeleenet f32ea6bd1576
classification/csppeleenet_swish f32ea6bd1576
classification/csppeleenet_swish_se 855b15a910f3
classification/csppeleeref 58696112224c
classification/cspresnet10 120f262ed273
classification/cspresnet50 78fbe0561ddf
classification/cspresnet50_elastic 81e343c14778
classification/cspresnext50 78fbe0561ddf
classification/cspresnext50_elastic 81e343c14778
classification/darknet53 a51f56d321f8
classification/darknetref e0652ca75b5b
classification/mobilenetv2 df674221b478
classification/peleenet c04e5df14c59
classification/resnet10 299b5048bc6d
classification/resnet50 33d9f3e2f676
classification/resnext50 33d9f3e2f676
"""
CONFIGS = dict(line.split() for line in KEYS_OF_VERSION_1.split("\n") if line)


def network_of(name: str) -> nn.Module:
    """The network of a config, without memory for its weights."""
    path = ROOT / f"configs/{name}.yaml"
    with torch.device("meta"):
        if name.startswith("classification/"):
            return load_config(path, ClassificationRecipe).model.build(pretrained=False)
        return load_config(path, DetectionRecipe).model.build(80, pretrained=False)


def version_1_keys(keys: Iterable[str]) -> list[str]:
    """State-dict keys of today as cspdet 1 had them: the table read backwards."""
    keys = list(keys)
    is_peleenet = any(".stem.conv_branch." in key for key in keys)  # other stems had a `conv` before
    return [_version_1_key(key, is_peleenet) for key in keys]


def _version_1_key(key: str, is_peleenet: bool) -> str:
    for prefix, old, new in RENAMED_WEIGHTS:
        is_same = new == ".stem.conv." and not is_peleenet
        if key.startswith(prefix) and not key.startswith(TIMM_PREFIX) and not is_same:
            key = key.replace(new, old)
    return key


@pytest.mark.parametrize("name", CONFIGS)
def test_the_weights_of_every_released_config_are_found_again(name):
    keys = list(network_of(name).state_dict())
    old = version_1_keys(keys)
    assert hashlib.sha256("\n".join(sorted(old)).encode()).hexdigest()[:12] == CONFIGS[name]
    assert list(upgrade_weights(dict.fromkeys(old))) == keys


def test_every_released_config_takes_part():
    configs = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs/classification").glob("*.yaml")]
    assert sorted(CONFIGS) == sorted(str(path.relative_to(ROOT / "configs").with_suffix("")) for path in configs)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("backbone.stem.enter.conv.weight", "backbone.stem.conv.conv.weight"),
        ("backbone.stem.convolve.0.norm.bias", "backbone.stem.conv_branch.0.norm.bias"),
        ("backbone.stages.0.body.2.near.1.conv.weight", "backbone.stages.0.body.2.branch_3x3.1.conv.weight"),
        ("backbone.stages.3.split.carry.conv.weight", "backbone.stages.3.split.short_conv.conv.weight"),
        ("neck.fine.last.conv.weight", "neck.fine.output_conv.conv.weight"),
        ("neck.fine_last.conv.weight", "neck.fine_output.conv.weight"),
        ("neck.middle_up.set.3.conv.weight", "neck.middle_up.convs.3.conv.weight"),
        ("head.predict.2.bias", "head.pred_convs.2.bias"),
        ("backbone.network.layer1.0.filter.weight", "backbone.network.layer1.0.filter.weight"),  # timm's own name
        ("body.layers.3.conv.weight", "body.layers.3.conv.weight"),  # of a Darknet cfg
    ],
)
def test_names_of_weights(old, new):
    assert list(upgrade_weights({old: 0})) == [new]


def version_1_weights(model: nn.Module) -> dict[str, Tensor]:
    state_dict = model.state_dict()
    return dict(zip(version_1_keys(state_dict), state_dict.values(), strict=True))


SMALL = """
model: {backbone: {name: csppeleenet, gamma: 0.5}, neck: {name: efm, width: 8, sam: true}}
input: {size: 64}
data: data.yaml
"""


def content_of_version_1(folder: Path) -> tuple[dict[str, object], nn.Module]:
    """What cspdet 1 wrote for a small detector, and the network."""
    (folder / "small.yaml").write_text(SMALL)
    recipe = load_config(folder / "small.yaml", DetectionRecipe)
    torch.manual_seed(0)
    model = recipe.model.build(2)
    weights = version_1_weights(model)
    values = recipe_to_dict(recipe)
    content = {
        "format": "cspdet 1", "task": "detector", "recipe": values, "class_names": ["cat", "dog"],
        "category_ids": [3, 17], "weights": weights, "training": None,
    }  # fmt: skip
    return content, model


def test_a_detector_of_version_1_is_a_model(tmp_path):
    content, model = content_of_version_1(tmp_path)
    assert "head.predict.0.bias" in content["weights"]
    torch.save(content, tmp_path / "best.pt")
    bundle = load_model(tmp_path / "best.pt", task="detection")
    assert (bundle.categories.names, bundle.categories.category_ids) == (("cat", "dog"), (3, 17))
    assert (bundle.config.input.size, load_checkpoint(tmp_path / "best.pt").program) == ((64, 64), "cspdet 1")
    images = torch.rand(1, 3, 64, 64)
    for found, expected in zip(bundle.detector(images), model.eval()(images), strict=True):
        assert torch.equal(found, expected)
    del content["task"]  # the first checkpoints had none
    torch.save(content, tmp_path / "first.pt")
    assert load_model(tmp_path / "first.pt").task == "detection"


def test_a_classifier_of_version_1_is_a_model(tmp_path):
    content, _ = content_of_version_1(tmp_path)
    recipe = {"model": {"backbone": {"name": "peleenet"}, "num_classes": 2}, "input": {"size": [32, 32]}}
    (tmp_path / "c.yaml").write_text("model: {backbone: {name: peleenet}, num_classes: 2}\ninput: {size: 32}\n")
    network = load_model(tmp_path / "c.yaml").classifier
    weights = version_1_weights(network)
    assert "backbone.stem.enter.conv.weight" in weights
    torch.save({**content, "task": "classifier", "recipe": recipe, "weights": weights}, tmp_path / "c.pt")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(load_model(tmp_path / "c.pt", task="classification").classifier(images), network(images))


@pytest.mark.parametrize("best", ["best", "best_AP"])  # best_AP when there were only detectors
def test_the_training_state_of_version_1_goes_on(tmp_path, best):
    def fresh() -> TrainingState:
        torch.manual_seed(0)
        return TrainingState(nn.Sequential(ConvBN(3, 4)), TrainConfig(), torch.device("cpu"), "fp32")

    one, two = fresh(), fresh()
    one.model(torch.rand(2, 3, 8, 8)).sum().backward()
    one.optimizer.step()
    one.ema.update(one.model)
    one.progress = TrainProgress(3, 0, 7, 28, 0.25, 2, 1, {"loss_box": 1.0, "batches": 2.0})
    training = one.state_dict()
    del training["progress"]
    training["position"] = {
        "epoch": 3, "batch": 0, "step": 7, "images_seen": 28, best: 0.25, "stale": 2, "skipped_steps": 1,
        "sums": {"loss_box": 1.0, "batches": 2.0},
    }  # fmt: skip
    content, _ = content_of_version_1(tmp_path)
    torch.save({**content, "weights": one.ema.model.state_dict(), "training": training}, tmp_path / "last.pt")
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    two.load_state_dict(checkpoint.training, checkpoint.weights)
    assert two.progress == one.progress
    assert two.ema.updates == 1
    for name, value in one.model.state_dict().items():
        assert torch.equal(two.model.state_dict()[name], value)
    momentum = [state["momentum_buffer"] for state in one.optimizer.state_dict()["state"].values()]
    for found, expected in zip(two.optimizer.state_dict()["state"].values(), momentum, strict=True):
        assert torch.equal(found["momentum_buffer"], expected)


def test_the_config_of_version_1_keeps_its_meaning(tmp_path):
    content, _ = content_of_version_1(tmp_path)
    checkpoint_path = tmp_path / "best.pt"
    torch.save(content, checkpoint_path)
    recipe = recipe_from_checkpoint(load_checkpoint(checkpoint_path), str(checkpoint_path))
    assert recipe == load_config(tmp_path / "small.yaml", DetectionRecipe)


def version_1_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config of today with the keys that cspdet 1 had: the table read backwards."""
    values = copy.deepcopy(config)
    for old, new in reversed(RENAMED_KEYS.items()):
        (*old_path, old_key), (*new_path, new_key) = old.split("."), new.split(".")
        source, target = (functools.reduce(lambda part, key: part.get(key) or {}, path, values)
                          for path in (new_path, old_path))  # fmt: skip
        if new_key in source and target:
            target[old_key] = source.pop(new_key)
    return values


@pytest.mark.e2e
def test_a_run_folder_of_version_1_is_resumed(tmp_path):
    """Written with the old keys, last.pt goes on to the same bits."""
    make_shapes(tmp_path / "set", images=6, size=64, seed=0)
    words = [
        str(ROOT / "configs/csppelee_efm_sam.yaml"), f"data={tmp_path}/set/shapes.yaml", "model.neck.width=8",
        "input.size=64", "train.batch_size=4", "train.nominal_batch_size=4", "train.epochs=2", "train.precision=fp32",
        "train.workers=0", "eval.workers=0", "train.cache=none",
    ]  # fmt: skip
    assert main(["train", *words, "--output", str(tmp_path / "new"), "--stop-after", "1"]) == 0
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    content = torch.load(tmp_path / "old/last.pt", weights_only=True)
    training = content["training"]
    training["model"] = dict(zip(version_1_keys(training["model"]), training["model"].values(), strict=True))
    old_names = {"best_metric": "best_AP", "evals_without_improvement": "stale", "loss_sums": "sums"}
    training["position"] = {old_names.get(key, key): value for key, value in training.pop("progress").items()}
    old = {
        "format": "cspdet 1", "task": "detector", "recipe": version_1_config(content["config"]), "training": training,
        "weights": dict(zip(version_1_keys(content["weights"]), content["weights"].values(), strict=True)),
        "class_names": content["class_names"], "category_ids": content["category_ids"],
    }  # fmt: skip
    assert {"evaluate_every", "assign", "save_every_minutes"} <= set(old["recipe"]["train"])
    torch.save(old, tmp_path / "old/last.pt")
    for folder in ("new", "old"):
        assert main(["train", "--resume", str(tmp_path / folder)]) == 0
    resumed, straight = (load_checkpoint(tmp_path / folder / "last.pt") for folder in ("old", "new"))
    assert resumed.training["progress"] == straight.training["progress"]
    for name, value in straight.training["model"].items():
        assert torch.equal(resumed.training["model"][name], value)
