"""Learning rates, parameter groups, the average, precision and stopping."""

from __future__ import annotations

import os
import queue
import signal
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cspdet.device import resolve_precision, select_device
from cspdet.errors import ConfigError
from cspdet.models.blocks import ConvBN
from cspdet.recipe import load_recipe
from cspdet.training.batch_size import (
    find_max_batch_size,
    min_images_per_process,
    resolve_batch_size,
    single_value_error,
)
from cspdet.training.config import MultiScaleConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from cspdet.training.distributed.context import DistributedContext
from cspdet.training.ema import EMA
from cspdet.training.run.graceful_stop import GracefulStop
from cspdet.training.run.options import default_run_name
from cspdet.training.schedule import build_optimizer, lr_factor
from cspdet.training.state import TrainingState, TrainProgress

CONFIG = Path(__file__).parents[2] / "configs/csppelee_efm_sam.yaml"


def test_the_papers_steps():
    paper = ScheduleConfig(name="step", steps=(0.8, 0.9), warmup_steps=1000, warmup_max_fraction=1.0, warmup_power=4)
    assert lr_factor(paper, 499, 500_000) == pytest.approx(0.5**4)
    assert lr_factor(paper, 999, 500_000) == lr_factor(paper, 399_999, 500_000) == 1
    assert lr_factor(paper, 400_000, 500_000) == pytest.approx(0.1)
    assert lr_factor(paper, 450_000, 500_000) == pytest.approx(0.01)


def test_the_cosine_ends_at_its_final_fraction():
    cosine = ScheduleConfig(name="cosine", final_lr_ratio=0.1, warmup_steps=0)
    assert lr_factor(cosine, 0, 100) == 1
    assert lr_factor(cosine, 50, 100) == pytest.approx(0.55)
    assert lr_factor(cosine, 100, 100) == pytest.approx(0.1)


def test_the_polynomial_by_hand():
    darknet = ScheduleConfig(name="polynomial", power=4, warmup_steps=0)
    assert [lr_factor(darknet, step, 100) for step in (0, 50, 90)] == pytest.approx([1, 1 / 16, 1e-4])
    linear = ScheduleConfig(name="polynomial", power=1, warmup_steps=10, warmup_max_fraction=1.0)
    assert lr_factor(linear, 4, 100) == pytest.approx(0.5 * 0.96)


@given(
    step=st.integers(0, 999), name=st.sampled_from(["cosine", "step", "constant", "polynomial"]),
    power=st.floats(0.5, 4), warmup=st.integers(0, 2000),
)  # fmt: skip
def test_rates_are_positive_and_never_above_one(step, name, power, warmup):
    config = ScheduleConfig(name=name, warmup_steps=warmup, warmup_power=power)
    assert 0 < lr_factor(config, step, 1000) <= 1


def test_warmup_is_at_most_a_fraction_of_a_short_run():
    config = ScheduleConfig(name="constant", warmup_steps=1000, warmup_max_fraction=0.1)
    assert lr_factor(config, 9, 100) == 1
    assert lr_factor(config, 8, 100) == pytest.approx(0.9)


def test_only_weights_of_convolutions_and_linears_decay():
    model = nn.Sequential(ConvBN(3, 4), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(2, 2))
    decayed, free = build_optimizer(model, OptimizerConfig(weight_decay=0.1)).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 3, 1, 1), (2, 4, 1, 1), (2, 2)]
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_two_steps_by_hand():
    """Nesterov: v = m v + g, then w = w - rate (g + m v), with the decay of a convolution's weight in its g."""
    layer = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(1.0)
    config = OptimizerConfig(learning_rate=0.1, momentum=0.5, nesterov=True, weight_decay=0.2)
    optimizer = build_optimizer(layer, config)
    values = {"weight": 1.0, "bias": 1.0}
    velocity = dict.fromkeys(values, 0.0)
    for slope in (1.0, -3.0):
        layer.weight.grad, layer.bias.grad = torch.full((1, 1, 1, 1), slope), torch.full((1,), slope)
        optimizer.step()
        for name, decay in (("weight", 0.2), ("bias", 0.0)):
            gradient = slope + decay * values[name]
            velocity[name] = 0.5 * velocity[name] + gradient
            values[name] -= 0.1 * (gradient + 0.5 * velocity[name])
    assert layer.weight.item() == pytest.approx(values["weight"])
    assert layer.bias.item() == pytest.approx(values["bias"])


def test_a_run_from_another_device_steps_as_this_one_does():
    saved, goes_on = state_of(), state_of()
    state = saved.state_dict()
    for group in state["optimizer"]["param_groups"]:
        group |= {"foreach": True, "fused": False, "lr": 0.125}
    goes_on.load_state_dict(state, saved.ema_or_model.state_dict())
    for group in goes_on.optimizer.param_groups:
        assert (group["foreach"], group["fused"], group["lr"]) == (False, True, 0.125)


def test_the_average_follows_quickly_first_and_slowly_later():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    nn.init.zeros_(model[0].weight)
    ema = EMA(model, decay=0.6, window_fraction=0.5)
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


def test_states_go_on():
    def fresh() -> TrainingState:
        torch.manual_seed(0)
        return TrainingState(nn.Sequential(ConvBN(3, 4)), TrainConfig(), torch.device("cpu"), "fp32")

    one, two = fresh(), fresh()
    one.model(torch.rand(2, 3, 8, 8)).sum().backward()
    one.optimizer.step()
    one.ema.update(one.model)
    one.progress = TrainProgress(epoch=3, step=7, best_metric=0.25, loss_sums={"loss_box": 1.0})
    saved, averaged = one.state_dict(), one.ema_or_model.state_dict()
    two.load_state_dict(saved, averaged)
    assert two.progress == one.progress
    assert two.ema.updates == 1
    for name, value in averaged.items():
        assert torch.equal(two.ema_or_model.state_dict()[name], value)


def test_devices_and_precisions_that_cannot_be_are_refused():
    for name in ("cuda:99", "tpu", "meta", "cpu:x"):
        with pytest.raises(ConfigError, match="--device"):
            select_device(name)
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        resolve_precision("fp16", torch.device("cpu"))


@pytest.mark.parametrize(("tiles", "vectors", "picked"), [
    (False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16"), (True, True, "bf16"),
])  # fmt: skip
def test_a_cpu_trains_in_bf16_where_it_multiplies_it(monkeypatch, tiles, vectors, picked):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == picked
    assert resolve_precision("fp32", torch.device("cpu")) == "fp32"


def test_a_torch_without_bf16_detection_trains_in_fp32(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_asks_and_is_handed_back(number, code):
    before = signal.getsignal(number)
    with GracefulStop() as stop:
        assert stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert stop.exit_code == code
    assert signal.getsignal(number) is before


def test_a_training_under_nohup_goes_on_when_the_terminal_is_closed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with GracefulStop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_does_not_wait():
    with GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_processes_stop_when_all_of_them_know():
    stop = GracefulStop()
    stop.sync([0.0, 0.0, 0.0])
    assert stop.stop_code == 0
    stop.sync([1.0, 0.0, 0.0])
    assert stop.stop_code == 130
    stop.sync([2.0, 1.0, 1.0])
    assert stop.stop_code == 143


@pytest.mark.parametrize(
    "values", [{"epoch": -1}, {"epoch": "x"}, {"step": 1.5}, {"loss_sums": None}, {"batch": 3}, {"best_metric": "x"}]
)
def test_a_progress_that_no_training_has_is_refused(values):
    with pytest.raises(ValueError, match="progress: expected"):
        TrainProgress(**values)


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(ConvBN(3, 4), ConvBN(4, 4))
        self.head = ConvBN(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


def state_of(**more: object) -> TrainingState:
    torch.manual_seed(0)
    return TrainingState(TwoParts(), TrainConfig(**more), torch.device("cpu"), "fp32")


def test_frozen_parts_keep_weights_and_statistics():
    state = state_of(freeze=("backbone.0",))
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    state.train()
    state.model(torch.rand(2, 3, 8, 8)).square().sum().backward()
    state.optimizer.step()
    after = state.model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.rsplit(".", 2)[0] for name in changed} == {"backbone.1", "head"}
    assert {"head.norm.running_mean", "backbone.1.conv.weight"} <= changed
    state.model.train(False)
    state.train()
    assert not state.model.backbone[0].norm.training
    assert state.model.backbone[1].norm.training


def test_parts_that_cannot_be_frozen_are_reported():
    with pytest.raises(ConfigError, match=r"no part 'backbon' \(did you mean 'backbone'\?\)"):
        state_of(freeze=("backbon",))
    with pytest.raises(ConfigError, match="nothing is left to train with backbone, head frozen"):
        state_of(freeze=("backbone", "head"))


def test_the_backbone_learns_at_its_own_rate():
    groups = state_of(optimizer={"backbone_rate": 0.1}).optimizer.param_groups
    by_factor = {1.0: 0, 0.1: 0}
    for group in groups:
        by_factor[group["lr_factor"]] += sum(parameter.numel() for parameter in group["params"])
    parts = TwoParts()
    assert by_factor == {
        1.0: sum(p.numel() for p in parts.head.parameters()),
        0.1: sum(p.numel() for p in parts.backbone.parameters()),
    }
    assert [g["weight_decay"] for g in groups] == [0.0005, 0.0, 0.0005, 0.0]
    assert [g["lr_factor"] for g in state_of().optimizer.param_groups] == [1.0, 1.0]


def test_a_run_of_an_earlier_version_without_rate_factors_is_resumed():
    state = state_of()
    saved = state.state_dict()
    for group in saved["optimizer"]["param_groups"]:
        del group["lr_factor"]
    state.load_state_dict(saved, saved["model"])
    assert [group["lr_factor"] for group in state.optimizer.param_groups] == [1.0, 1.0]


@pytest.mark.parametrize("ema", [True, False])
def test_spoiled_statistics_become_those_of_the_average_again(ema):
    state = state_of() if ema else state_of(ema=None)
    norm = state.model.head.norm
    norm.running_mean[0], norm.running_var[1] = float("nan"), float("inf")
    if ema:
        state.ema.model.head.norm.running_mean.fill_(3)
        state.ema.model.head.norm.running_var.fill_(5)
    state.model.backbone[0].norm.running_mean.fill_(7)  # finite: stays
    state.reset_nonfinite_bn_stats()
    assert norm.running_mean.tolist() == ([3, 3] if ema else [0, 0])
    assert norm.running_var.tolist() == ([5, 5] if ema else [1, 1])
    assert state.model.backbone[0].norm.running_mean.tolist() == [7] * 4


def test_the_batch_grows_by_powers_of_two_as_long_as_it_fits():
    def fits(images: int) -> int | None:
        return None if images > 16 else 100 * images

    assert find_max_batch_size(fits, available_bytes=10_000, max_batch_size=64) == 16
    assert find_max_batch_size(fits, available_bytes=900, max_batch_size=64) == 8
    assert find_max_batch_size(fits, available_bytes=10_000, max_batch_size=12) == 8
    assert find_max_batch_size(fits, available_bytes=99, max_batch_size=64) == 0


def test_a_batch_size_is_measured_on_cuda_only():
    recipe = load_recipe(CONFIG, ["train.batch_size=auto", "train.nominal_batch_size=32"])
    assert recipe.train.max_batch_size == 32
    with pytest.raises(ConfigError, match="auto is measured on a CUDA device"):
        resolve_batch_size(recipe.train, (64, 64), TwoParts(), torch.device("cpu"), DistributedContext())
    fixed = load_recipe(CONFIG, ["train.batch_size=4"])
    assert resolve_batch_size(fixed.train, (64, 64), TwoParts(), torch.device("cpu"), DistributedContext()) == 4


def test_batch_normalization_of_one_cell_needs_two_images():
    def least(side: int, stride: int, low: float | None = None) -> int:
        train = TrainConfig(multi_scale=None if low is None else MultiScaleConfig(low=low))
        return min_images_per_process(train, (32, side), stride)

    assert [least(32, 32), least(64, 32), least(64, 64), least(64, 32, 0.5), least(416, 32, 0.5)] == [2, 1, 2, 2, 1]
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))
    assert "train.batch_size" in str(single_value_error(caught.value))
    assert single_value_error(ValueError("another")) is None


@pytest.mark.parametrize(
    ("config", "name"),
    [(None, "run"), ("configs/yolov3.yaml", "yolov3"), ("runs/first/best.pt", "first"), ("cache/tiny.pt", "tiny")],
)
def test_a_run_is_named_after_its_config_or_the_run_that_it_trains_further(config, name):
    assert default_run_name(None if config is None else Path(config)) == name


def test_a_file_error_of_tensorboards_thread_prints_no_traceback(capsys, monkeypatch):
    event_file_writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    from cspdet.training.loggers.tensorboard import silence_writer_threads

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    silence_writer_threads.__wrapped__()
    thread = event_file_writer._AsyncWriterThread(queue.Queue(), None, 120)
    for error, printed in ((OSError(28, "No space left on device"), False), (ValueError("x"), True)):
        threading.excepthook(threading.ExceptHookArgs((type(error), error, None, thread)))
        assert ("Error" in capsys.readouterr().err) == printed
