"""Runs for the tests of faults: started in this process or as real ones, watched, and compared bit for bit."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmark_scripts import load_script

from cspdet.cli import run_command

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/csppelee_prn.yaml"
SMALL = [
    "input.size=64", "train.batch_size=8", "train.epochs=3", "train.precision=fp32", "train.workers=0",
    "eval.workers=0", "train.augment.close_mosaic=1", "train.cache=none",
]  # fmt: skip
BATCHES = 3  # an epoch: 20 pictures, 8 a batch
SAVE_EACH_STEP = "train.save_every_minutes=0.0001"
DRAFTS = ".*.part*"


def train(*words: str | Path) -> int:
    return run_command("train", [str(word) for word in words])


def start(*words: str | Path, limit: int | None = None) -> subprocess.Popen[str]:
    """A real process, in a session of its own; `limit` is the largest file in bytes that it may write."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools/train.py"), *(str(word) for word in words)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.01)


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def errors(said: str) -> list[str]:
    """The error lines; a traceback fails the test."""
    assert "Traceback" not in said, said
    return [line for line in said.splitlines() if line.startswith("error: ")]


PROOF = load_script("kill_and_resume")
