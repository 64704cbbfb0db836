"""Several processes: the same numbers as one, one file of each kind, and clear ends when one of them fails."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from classification_data import write_colors

from cspdet.cli.main import main
from cspdet.errors import ConfigError
from cspdet.io.checkpoint import load_checkpoint
from cspdet.training.distributed import context as distributed
from cspdet.training.distributed.context import DistributedContext, init_distributed, local_device
from cspdet.training.run.options import TrainOptions

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "tools" / "train.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LIMIT_S = 300

# A batch of five in parts of three and two; fp64, so that only a wrong formula makes a difference.
NORM = """
import sys, torch, torch.distributed as dist
from torch import nn
from cspdet.training.distributed.sync_norm import SyncBatchNorm, convert_sync_batchnorm

torch.manual_seed(0)
whole = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
whole.double()
images, goal = torch.randn(5, 3, 6, 7).double() + 3, torch.randn(5, 2, 4, 5).double()
images.requires_grad_()
parts = nn.Sequential(*whole)
parts.load_state_dict(whole.state_dict())
(whole(images) * goal).sum().backward()
expected = [parameter.grad.clone() for parameter in whole.parameters()]
of_images, statistics = images.grad.clone(), {k: v.clone() for k, v in whole.named_buffers()}

torch.manual_seed(0)
again = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
again.double()
dist.init_process_group("gloo")
mine = slice(0, 3) if dist.get_rank() == 0 else slice(3, 5)
convert_sync_batchnorm(again)
assert [type(part) for part in again].count(SyncBatchNorm) == 2
own = images.detach()[mine].requires_grad_()
(again(own) * goal[mine]).sum().backward()
for parameter, value in zip(again.parameters(), expected):
    dist.all_reduce(parameter.grad)
    torch.testing.assert_close(parameter.grad, value, rtol=1e-10, atol=1e-10)
torch.testing.assert_close(own.grad, of_images[mine], rtol=1e-10, atol=1e-10)
for name, value in again.named_buffers():
    torch.testing.assert_close(value, statistics[name], rtol=1e-10, atol=1e-10)
torch.testing.assert_close(again.eval()(images), whole.eval()(images))
assert list(again.state_dict()) == list(whole.state_dict())
"""

# Rank 1 does not come to a meeting: it sleeps, or is gone.
LATE = """
import logging, os, sys, time, torch
from cspdet.training.distributed.context import init_distributed
from cspdet.errors import UserError

logging.basicConfig(format="%(message)s")
with init_distributed(torch.device("cpu"), timeout_minutes=float(sys.argv[2])) as context:
    context.set_progress("epoch 3, batch 7")
    context.all_reduce_sum(torch.ones(1))
    if context.rank == 1:
        os.kill(os.getpid(), 9) if sys.argv[1] == "gone" else time.sleep(600)
    context.set_progress("epoch 3, batch 8")
    try:
        context.all_reduce_sum(torch.ones(1))
    except UserError as error:
        print("told:", error, file=sys.stderr, flush=True)
        os._exit(2)
"""

# The run of a first start kills rank 1 within its second epoch.
FRAGILE = """
import os, sys
from cspdet.cli.main import run_command
from cspdet.training.trainer import Trainer

step = Trainer._update
def fragile(self, batch, stop):
    step(self, batch, stop)
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and self.context.rank == 1 and self.state.progress.epoch == 1:
        os.kill(os.getpid(), 9)
Trainer._update = fragile
sys.exit(run_command("train"))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def torchrun(script: str, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHRUN, *options, script, *words], capture_output=True, text=True, timeout=LIMIT_S, env=environment()
    )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    words = ["--images", "16", "--size", "64", "--seed", "5"]
    assert main(["prepare-data", "shapes", "--output", str(folder), *words]) == 0
    return folder / "shapes.yaml"


def words(shapes: Path, output: Path, *more: str) -> list[str]:
    # At the published rate, rounding, which differs with the order of sums, stays small for a few steps.
    return [
        str(ROOT / "configs" / "yolov3_tiny_prn.yaml"), f"data={shapes}", "input.size=64",
        f"train={ROOT / 'configs' / 'train' / 'paper.yaml'}", "train.epochs=2", "train.batch_size=4",
        "train.nominal_batch_size=8", "train.multi_scale=null", "train.precision=fp32", "train.workers=0",
        "train.ema={decay: 0.9, window_fraction: 0.5}", *more, "--device", "cpu", "--output", str(output),
    ]  # fmt: skip


def lines_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.e2e
def test_synchronized_normalization_is_that_of_the_whole_batch(tmp_path):
    script = tmp_path / "norm.py"
    script.write_text(NORM)
    done = torchrun(str(script))
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def one(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a process on its own."""
    folder = tmp_path_factory.mktemp("one") / "run"
    alone = subprocess.run(
        [sys.executable, TRAIN, *words(shapes, folder)],
        capture_output=True, text=True, timeout=LIMIT_S, env=environment(),
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    return folder


def same_first_epoch(run: Path, other: Path) -> None:
    row, other_row = lines_of(run)[0], lines_of(other)[0]
    assert row["images_seen"] == other_row["images_seen"] == 16
    for name in ("loss", "loss_box", "loss_objectness", "loss_class"):
        assert row[name] == pytest.approx(other_row[name], rel=1e-4)


@pytest.mark.e2e
def test_two_processes_train_as_one_and_one_goes_on(shapes, one, tmp_path):
    two = tmp_path / "two"
    done = torchrun("cspdet", "train", *words(shapes, two, "--stop-after", "1"), options=("-m",))
    assert done.returncode == 0, done.stderr
    assert "2 processes, cpu" in done.stderr
    assert done.stderr.count("epoch 1 of 2:") == 1
    same_first_epoch(two, one)
    assert main(["train", "--resume", str(two), "--device", "cpu"]) == 0
    assert [line["epoch"] for line in lines_of(two)] == [1, 2]
    assert lines_of(two)[1]["loss"] == pytest.approx(lines_of(one)[1]["loss"], rel=1e-2)
    weights, same = load_checkpoint(one / "best.pt").weights, load_checkpoint(two / "best.pt").weights
    assert list(weights) == list(same)  # no trace of the synchronized normalization
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


@pytest.mark.e2e
def test_two_machines_train_as_one_process(shapes, one, tmp_path):
    """The line of docs/how-to/many_gpus.md, once for each of two torchruns, as if each were on a machine of its own."""
    run = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    line = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, "--rdzv-id", "17", TRAIN,
        *words(shapes, run, "--stop-after", "1"),
    ]  # fmt: skip
    machines = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment()) for _ in range(2)]
    said = [machine.communicate(timeout=LIMIT_S)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert sum(text.count("2 processes, cpu") for text in said) == 1  # the first of them tells
    assert sum(text.count("epoch 1 of 2:") for text in said) == 1
    same_first_epoch(run, one)


@pytest.mark.e2e
def test_a_classifier_trains_in_two_processes(shapes, tmp_path):
    for split in ("train", "val"):
        write_colors(tmp_path / "data", split)
    done = torchrun(
        str(ROOT / "tools" / "train_classifier.py"), str(ROOT / "configs" / "classification" / "resnet10.yaml"),
        "--data", str(tmp_path / "data"), "input.size=32", "train.epochs=1", "train.batch_size=4", "train.workers=0",
        "train.nominal_batch_size=4", "train.precision=fp32", "--device", "cpu", "--output", str(tmp_path / "run"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = lines_of(tmp_path / "run")
    assert 0 <= line["top1"] <= 1


@pytest.mark.e2e
def test_a_process_that_never_comes_is_named(tmp_path):
    script = tmp_path / "late.py"
    script.write_text(LATE)
    done = torchrun(str(script), "asleep", "0.1")
    assert done.returncode != 0
    found = re.search(r"rank 0: waited 0 minutes .* while adding up: rank 1 on \S+ was last at (.*)", done.stderr)
    assert found, done.stderr
    assert found.group(1).startswith("epoch 3, batch 7")
    # torchrun ends the others when it looks and misses one: on a busy machine before they have told why
    done = torchrun(str(script), "gone", "5", options=("--monitor-interval", "5"))
    assert done.returncode != 0
    assert re.search(r"rank 0: adding up failed: rank 1 on \S+ was last at epoch 3, batch 7", done.stderr), done.stderr


@pytest.mark.e2e
def test_torchrun_starts_a_failed_run_again_and_it_goes_on(shapes, tmp_path):
    script = tmp_path / "fragile.py"
    script.write_text(FRAGILE)
    done = torchrun(str(script), *words(shapes, tmp_path / "run"), options=("--max-restarts", "1"))
    assert done.returncode == 0, done.stderr
    assert [line["epoch"] for line in lines_of(tmp_path / "run")] == [1, 2]
    assert done.stderr.count("epoch 1 of 2:") == 1
    assert done.stderr.count("epoch 2 of 2:") == 1


@pytest.mark.e2e
def test_sigterm_at_torchrun_saves_and_one_process_goes_on(shapes, tmp_path):
    run = tmp_path / "run"
    command = [*TORCHRUN, TRAIN, *words(shapes, run, "train.epochs=500")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    deadline = time.monotonic() + LIMIT_S
    while not (run / "last.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=LIMIT_S)
    assert "stopped and saved in" in said
    stopped = load_checkpoint(run / "last.pt").training
    assert stopped is not None
    epoch = stopped["progress"]["epoch"]
    assert main(["train", "--resume", str(run), "--device", "cpu", "--stop-after", str(epoch + 1)]) == 0


def test_alone_every_meeting_is_with_oneself():
    with DistributedContext() as world:
        assert world.is_main_process
        assert world.all_reduce_sum(torch.tensor(3.0)).item() == 3
        assert world.broadcast("x") == "x"
        assert world.gather(7) == [7]
        world.set_progress("anywhere")
    assert init_distributed(torch.device("cpu"), 10).world_size == 1


def test_devices_are_given_out_by_place(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = torch.device("cuda")
    assert local_device(cuda) == cuda
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert local_device(cuda) == torch.device("cuda", 1)
    assert local_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ConfigError, match="cuda:0 is one device, but torchrun started 2"):
        local_device(torch.device("cuda", 0))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="3 processes here, but there are 2 CUDA devices"):
        local_device(cuda)


def test_restarts_need_a_folder_that_they_find(monkeypatch, tmp_path):
    first = TrainOptions(Path("a.yaml"), None, None, None, torch.device("cpu"), None, ("train.epochs=3",))
    assert first.resume_after_restart() == first
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ConfigError, match="--output"):
        first.resume_after_restart()
    named = TrainOptions(Path("a.yaml"), tmp_path, None, "w.pt", torch.device("cpu"), 2, ("train.epochs=3",))
    assert named.resume_after_restart() == named
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert named.resume_after_restart() == named  # it failed before it saved anything
    (tmp_path / "last.pt").touch()
    assert named.resume_after_restart() == TrainOptions(None, None, tmp_path, None, torch.device("cpu"), 2, ())


def test_only_torchrun_makes_a_world(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # some schedulers set it for other purposes
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not distributed.started_by_torchrun()
    assert init_distributed(torch.device("cpu"), 1).world_size == 1
