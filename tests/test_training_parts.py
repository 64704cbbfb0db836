"""Learning rates, parameter groups, the average, precision and stopping."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cspdet.errors import ConfigError
from cspdet.models.blocks import ConvBN
from cspdet.precision import pick_device, pick_precision
from cspdet.recipe import TrainConfig
from cspdet.training.ema import EMA
from cspdet.training.schedule import OptimizerConfig, ScheduleConfig, build_optimizer, rate
from cspdet.training.state import Position, TrainingState
from cspdet.training.stop import StopRequest


def test_the_papers_steps():
    paper = ScheduleConfig(name="step", steps=(0.8, 0.9), burn_in_steps=1000, burn_in_share=1.0, burn_in_power=4)
    assert rate(paper, 499, 500_000) == pytest.approx(0.5**4)
    assert rate(paper, 999, 500_000) == rate(paper, 399_999, 500_000) == 1
    assert rate(paper, 400_000, 500_000) == pytest.approx(0.1)
    assert rate(paper, 450_000, 500_000) == pytest.approx(0.01)


def test_the_cosine_ends_at_its_final_share():
    cosine = ScheduleConfig(name="cosine", final=0.1, burn_in_steps=0)
    assert rate(cosine, 0, 100) == 1
    assert rate(cosine, 50, 100) == pytest.approx(0.55)
    assert rate(cosine, 100, 100) == pytest.approx(0.1)


def test_the_polynomial_by_hand():
    darknet = ScheduleConfig(name="polynomial", power=4, burn_in_steps=0)
    assert [rate(darknet, step, 100) for step in (0, 50, 90)] == pytest.approx([1, 1 / 16, 1e-4])
    linear = ScheduleConfig(name="polynomial", power=1, burn_in_steps=10, burn_in_share=1.0)
    assert rate(linear, 4, 100) == pytest.approx(0.5 * 0.96)


@given(
    step=st.integers(0, 999), name=st.sampled_from(["cosine", "step", "constant", "polynomial"]),
    power=st.floats(0.5, 4), burn_in=st.integers(0, 2000),
)  # fmt: skip
def test_rates_are_positive_and_never_above_one(step, name, power, burn_in):
    config = ScheduleConfig(name=name, burn_in_steps=burn_in, burn_in_power=power)
    assert 0 < rate(config, step, 1000) <= 1


def test_burn_in_takes_its_share_of_a_short_run_at_most():
    config = ScheduleConfig(name="constant", burn_in_steps=1000, burn_in_share=0.1)
    assert rate(config, 9, 100) == 1
    assert rate(config, 8, 100) == pytest.approx(0.9)


def test_only_weights_of_convolutions_and_linears_decay():
    model = nn.Sequential(ConvBN(3, 4), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(2, 2))
    decayed, free = build_optimizer(model, OptimizerConfig(weight_decay=0.1)).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 3, 1, 1), (2, 4, 1, 1), (2, 2)]
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_the_average_follows_quickly_first_and_slowly_later():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    nn.init.zeros_(model[0].weight)
    ema = EMA(model, decay=0.6, share=0.5)
    nn.init.ones_(model[0].weight)
    expected = 0.0
    for n in range(1, 6):
        ema.update(model)
        keep = min(0.6, (n / 2) / (1 + n / 2))  # 1/3, 1/2, 3/5, then the limit
        expected = keep * expected + (1 - keep)
        assert ema.model[0].weight.item() == pytest.approx(expected)
    model[1].num_batches_tracked.fill_(7)
    ema.update(model)
    assert ema.model[1].num_batches_tracked.item() == 7
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_states_go_on_and_so_do_those_of_earlier_versions():
    def fresh() -> TrainingState:
        torch.manual_seed(0)
        return TrainingState(nn.Sequential(ConvBN(3, 4)), TrainConfig(), torch.device("cpu"), "fp32")

    one, two = fresh(), fresh()
    one.model(torch.rand(2, 3, 8, 8)).sum().backward()
    one.optimizer.step()
    one.ema.update(one.model)
    one.position = Position(epoch=3, step=7, best=0.25, sums={"loss_box": 1.0})
    saved, averaged = one.state_dict(), one.averaged.state_dict()
    two.load_state_dict(saved, averaged)
    assert two.position == one.position
    assert two.ema.updates == 1
    for name, value in averaged.items():
        assert torch.equal(two.averaged.state_dict()[name], value)
    saved["position"]["best_AP"] = saved["position"].pop("best")  # as it was called when there were only detectors
    two = fresh()
    two.load_state_dict(saved, averaged)
    assert two.position == one.position


def test_devices_and_precisions_that_cannot_be_are_refused():
    for name in ("cuda:99", "tpu", "meta", "cpu:x"):
        with pytest.raises(ConfigError, match="--device"):
            pick_device(name)
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        pick_precision("fp16", torch.device("cpu"))
    assert pick_precision("auto", torch.device("cpu")) in ("bf16", "fp32")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_asks_and_is_handed_back(number, code):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert stop.exit_code == code
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
