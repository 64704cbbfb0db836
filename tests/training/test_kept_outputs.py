"""`train.keep_classes` adds classes to a detector without changing its outputs for the old ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cspdet.errors import ConfigError
from cspdet.models.config import DetectorConfig
from cspdet.training.config import TrainConfig
from cspdet.training.state import TrainingState

NAMES = ("cat", "dog", "new")
CONFIG = {"backbone": {"name": "csppeleenet"}, "neck": {"name": "efm", "width": 8}}


def state_of(keep: tuple[str, ...], *, freeze: tuple[str, ...] = (), seed: int = 0) -> TrainingState:
    torch.manual_seed(seed)
    model = DetectorConfig.model_validate(CONFIG, strict=False).build(len(NAMES))
    config = TrainConfig(keep_classes=keep, freeze=freeze)
    return TrainingState(model, config, torch.device("cpu"), "fp32", NAMES)


def train(state: TrainingState, steps: int) -> None:
    state.train()
    for step in range(steps):
        torch.manual_seed(step)
        loss = sum(raw.square().mean() for raw in state.model(torch.rand(1, 3, 64, 64)))
        loss.backward()
        state.mask_gradients()
        state.step()
        state.optimizer.zero_grad()
        state.ema.update(state.model)


def outputs(model: nn.Module) -> list[torch.Tensor]:
    model.eval()
    with torch.no_grad():
        return list(model(torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)))


def test_with_a_frozen_trunk_the_old_outputs_are_bit_identical():
    state = state_of(("cat", "dog"), freeze=("backbone", "neck"))
    before = [raw.clone() for raw in outputs(state.model)]
    train(state, 3)
    for model in (state.model, state.ema.model):
        for old, new in zip(before, outputs(model), strict=True):
            assert torch.equal(old[..., :7], new[..., :7])  # box, objectness, cat, dog
            assert not torch.equal(old[..., 7], new[..., 7])


def test_with_a_trained_trunk_the_weights_of_the_kept_outputs_stay():
    state = state_of(("dog",))
    convs = state.model.head.pred_convs
    before = [conv.weight.detach().clone().view(3, 8, -1) for conv in convs]
    stem = next(state.model.backbone.parameters()).detach().clone()
    train(state, 2)
    for old, conv in zip(before, convs, strict=True):
        changed = (conv.weight.view(3, 8, -1) != old).flatten(2).any(dim=2)
        assert changed.tolist() == [[False] * 5 + [True, False, True]] * 3
    assert not torch.equal(stem, next(state.model.backbone.parameters()))


def test_a_resumed_training_keeps_the_outputs_of_the_uninterrupted_one():
    whole = state_of(("cat", "dog"))
    before = [conv.weight.detach().clone().view(3, 8, -1)[:, :7] for conv in whole.model.head.pred_convs]
    train(whole, 1)
    resumed = state_of(("cat", "dog"), seed=1)  # a resumed run starts from a new network
    saved = copy.deepcopy(whole.state_dict())
    resumed.load_state_dict(saved, copy.deepcopy(whole.ema.model.state_dict()))
    for state in (whole, resumed):
        train(state, 1)
    for old, conv in zip(before, resumed.model.head.pred_convs, strict=True):
        assert torch.equal(conv.weight.view(3, 8, -1)[:, :7], old)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_masked_gradients_do_not_count_for_clipping():
    state = state_of(("cat", "dog"), freeze=("backbone", "neck"))
    state.train()
    sum(raw.square().mean() for raw in state.model(torch.rand(1, 3, 64, 64))).backward()
    state.mask_gradients()
    for conv in state.model.head.pred_convs:
        assert conv.weight.grad.view(3, 8, -1)[:, :7].abs().sum() == 0
        assert conv.weight.grad.view(3, 8, -1)[:, 7].abs().sum() > 0


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (("cats",), r"train.keep_classes: the data has no class 'cats' \(did you mean 'cat'\?\)"),
        (NAMES, "train.keep_classes: no class is left to train"),
    ],
)
def test_classes_that_cannot_be_kept_are_reported(keep, message):
    with pytest.raises(ConfigError, match=message):
        state_of(keep)


def test_a_network_without_class_layers_is_reported():
    config = TrainConfig(keep_classes=("cat",))
    with pytest.raises(ConfigError, match="the network declares no class_layers"):
        TrainingState(nn.Sequential(nn.Conv2d(3, 4, 1)), config, torch.device("cpu"), "fp32", NAMES)
