"""Check that a run which is killed repeatedly and resumed ends bit-identical to an uninterrupted run.

  python benchmarks/kill_and_resume.py [--kills 20] [--workers 0] [--epochs 6] [--seed 0] [--output DIR]
  python benchmarks/kill_and_resume.py --compare RUN RUN

A small network is trained on the built-in shapes, fp32, on the CPU: once uninterrupted, and once with kill -9 at times
drawn from the seed: during startup, during training, or as soon as the temporary file of a save appears in its folder.
Most kills hit the whole process group, some only the training process, whose loader processes must then exit on their
own. After each kill last.pt must load, and --resume continues. Finally weights, EMA, optimizer, position, metrics
(without times), results and images are compared bit for bit. Exit code 1 if anything differs or a file is left over.
Linux only: processes are looked up in /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.io.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[1]
TIMES = ("images_per_second", "data_wait_fraction")  # differ between any two runs
WHOLE_FILES = ("config.yaml", "metrics.json", "detections.json", "train_batch.jpg", "val_detections.jpg")
TMP_FILES = ".*.part*"  # temporary files of cspdet/io/atomic.py
AIMS = {"any moment": 0.45, "a save": 0.45, "the start": 0.1}
ALONE = 0.25  # fraction of kills that hit only the training process
SECONDS_TO_GO = 15.0  # for loader processes to notice: torch looks every 5
SECONDS_TO_START = 180.0


@dataclass(frozen=True)
class Kill:
    """One kill and the state of the run at that time."""

    number: int
    aim: str
    victims: str  # the process group, or the training process alone
    seconds: float  # after the start of the process
    position: str  # epoch and batch in last.pt
    cut: str  # the file whose save it cut off, or ""

    def __str__(self) -> str:
        where = f"during the save of {self.cut}" if self.cut else "-"
        return f"{self.number:4}  {self.aim:10}  {self.victims:13}  {self.seconds:7.2f}  {self.position:20}  {where}"


class Failed(Exception):
    """What breaks the proof."""


class Run:
    """A training command in a session of its own, so that all of its processes can be found and killed."""

    def __init__(self, words: list[str], folder: Path, log: Path):
        self.folder, self.log = folder, log
        self.signs_before = self._signs()
        with log.open("w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "tools/train.py"), *words], stderr=file, stdout=file, cwd=ROOT,
                start_new_session=True,
            )  # fmt: skip
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def trains(self) -> bool:
        """Whether this process has come as far as the first step."""
        return self._signs() != self.signs_before

    def _signs(self) -> set[tuple[str, int]]:
        paths = [*self.folder.glob("tensorboard/*"), *self.folder.glob("last.pt")]
        return {(path.name, path.stat().st_ino) for path in paths}

    def wait_for_saves(self, count: int) -> float:
        """Let `count` of the saves to last.pt pass; the seconds that one took, with the steps before it."""
        path, times = self.folder / "last.pt", [time.monotonic()]
        for _ in range(count):
            before = stamp(path)
            if not self.wait(lambda: stamp(path) != before, 120):  # noqa: B023 it is called in this very turn
                break
            times.append(time.monotonic())
        return (times[-1] - times[0]) / max(1, len(times) - 1) or 0.5

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Until `condition` holds (True), or the process ends or the time is over (False)."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.001)
        return False

    def pause(self, seconds: float) -> None:
        """Let it run, unless it ends."""
        self.wait(lambda: False, seconds)

    def finish(self, seconds: float) -> None:
        """Wait for the end of the run, which must be a good one."""
        code = self.process.wait(seconds)
        if code:
            raise Failed(f"exit {code}: {self.log.read_text().strip()[-1000:]}")

    def kill(self, alone: bool) -> None:
        """kill -9; with `alone` the other processes of the session are left, and must go by themselves."""
        if alone:
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        end = time.monotonic() + SECONDS_TO_GO
        while (left := living(self.process.pid)) and time.monotonic() < end:
            time.sleep(0.02)
        if left:
            raise Failed(f"processes {left} outlive their training process by {SECONDS_TO_GO:.0f} s")


def living(session: int) -> list[int]:
    """The processes of a session, without those that have ended and only wait to be reaped."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


def stamp(path: Path) -> int:
    """Changes whenever the file is written again."""
    return path.stat().st_mtime_ns if path.exists() else 0


def killed_run(words: list[str], folder: Path, kills: int, seed: int, steps: int) -> Iterator[Kill]:
    """Train into `folder` for `steps` steps, each of which is saved, with `kills` kills on the way."""
    draw = random.Random(seed)
    done = 0  # steps that last.pt holds
    for number in range(1, kills + 1):
        again = (folder / "last.pt").exists()
        run = Run(["--resume", str(folder)] if again else words, folder, folder.parent / f"log-{number}.txt")
        (aim,) = draw.choices(list(AIMS), list(AIMS.values()))
        alone = draw.random() < ALONE
        if aim == "the start":
            run.pause(draw.uniform(0, 6))
        elif run.wait(run.trains, SECONDS_TO_START):
            # what is left of the training has to last for the kills that are left
            pace = run.wait_for_saves(draw.randint(0, int(1.6 * (steps - done) / (kills - number + 2))))
            run.pause(draw.uniform(0, pace))
            if aim == "a save":
                run.wait(lambda: any(folder.glob(TMP_FILES)), 60)
                run.pause(draw.uniform(0, 0.04))
        if run.process.poll() is not None:
            run.finish(1)
            raise Failed(f"the run was over before kill {number}; give it more --epochs")
        moment = run.seconds
        run.kill(alone)
        cut = sorted(f"{path.name.split('.')[1]}{path.suffix}" for path in folder.glob(f".*.{run.process.pid}.part*"))
        position, done = read_position(folder)
        yield Kill(number, aim, "process alone" if alone else "group", moment, position, ", ".join(cut))
    again = (folder / "last.pt").exists()
    Run(["--resume", str(folder)] if again else words, folder, folder.parent / "log-last.txt").finish(600)


def read_position(folder: Path) -> tuple[str, int]:
    """Where last.pt stands, in words and in steps."""
    path = folder / "last.pt"
    if not path.exists():
        return "no last.pt yet", 0
    training = load_checkpoint(path).training
    assert training is not None
    position = training["progress"]
    return f"epoch {position['epoch'] + 1} batch {position['batch']}", position["step"]


def differences(one: object, two: object, where: str = "") -> list[str]:
    """Places where two nests of dicts, lists, tensors and plain values are not the same to the last bit."""
    if type(one) is not type(two):
        return [f"{where}: {type(one).__name__} and {type(two).__name__}"]
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        same = one.dtype == two.dtype and one.shape == two.shape and torch.equal(raw(one), raw(two))
        return [] if same else [f"{where}: tensors"]
    if isinstance(one, dict) and isinstance(two, dict):
        if one.keys() != two.keys():
            return [f"{where}: keys {sorted(map(str, one.keys() ^ two.keys()))[:5]} are in one only"]
        return [line for key in one for line in differences(one[key], two[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        if len(one) != len(two):
            return [f"{where}: {len(one)} and {len(two)} entries"]
        pairs = zip(one, two, strict=True)
        return [line for i, (a, b) in enumerate(pairs) for line in differences(a, b, f"{where}/{i}")]
    return [] if repr(one) == repr(two) else [f"{where}: {one!r} and {two!r}"]  # repr: nan is itself, -0.0 is not 0.0


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, since equal floats may differ in their bits."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def compare_runs(one: Path, two: Path) -> list[str]:
    """Where two run folders differ in more than the times that they took."""
    found = []
    for name in ("last.pt", "best.pt"):
        first, second = (load_checkpoint(run / name) for run in (one, two))
        found += differences(first.weights, second.weights, f"{name}: weights")
        found += differences(first.training, second.training, f"{name}: training")
        found += [f"{name}: config or categories"] * (
            (first.config, first.categories) != (second.config, second.categories)
        )
    found += differences(read_metrics(one), read_metrics(two), "metrics.jsonl")
    for name in WHOLE_FILES:
        paths = [run / name for run in (one, two) if (run / name).exists()]
        if len(paths) == 1 or (paths and paths[0].read_bytes() != paths[1].read_bytes()):
            found.append(f"{name}: other bytes, or there once only")
    return found


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def prove(args: argparse.Namespace, output: Path) -> list[str]:
    """Both runs, with a table of the kills; everything that differs or is left over."""
    make_shapes(output / "shapes", images=args.images, size=64, seed=args.seed)
    words = [
        str(args.config), f"data={output}/shapes/shapes.yaml", "input.size=64", "train.batch_size=8",
        f"train.epochs={args.epochs}", "train.precision=fp32", f"train.workers={args.workers}",
        f"eval.workers={args.workers}", "train.augment.close_mosaic=1", "train.multi_scale={low: 0.5, interval: 2}",
        "train.checkpoint_interval_minutes=0.0001", f"train.seed={args.seed}", "--device", "cpu", "--output",
    ]  # fmt: skip
    straight, killed = (output / name / "run" for name in ("untouched", "killed"))  # the folder's name is in files
    for folder in (straight, killed):
        folder.parent.mkdir(parents=True)
    run = Run([*words, str(straight)], straight, output / "untouched/log.txt")
    run.wait(run.trains, SECONDS_TO_START)
    began = run.seconds
    run.finish(900)
    steps = read_position(straight)[1]
    print(f"untouched: {steps} steps in {run.seconds - began:.1f} s, after {began:.1f} s; workers {args.workers}")
    print("kill  aim         victim         seconds  last.pt               what was cut off")
    kills = []
    for kill in killed_run([*words, str(killed)], killed, args.kills, args.seed, steps):
        kills.append(kill)
        print(kill, flush=True)
    print(f"{len(kills)} kills, {sum(bool(kill.cut) for kill in kills)} of them inside a save")
    left = sorted(path.name for path in killed.glob(TMP_FILES))
    return compare_runs(straight, killed) + [f"left over: {name}" for name in left]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = (("kills", 20), ("workers", 0), ("epochs", 6), ("images", 64), ("seed", 0))
    for name, default in defaults:
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--config", type=Path, default=ROOT / "configs/csppelee_prn.yaml", help="default: csppelee_prn")
    parser.add_argument("--output", type=Path, help="an empty folder to keep everything in; default: a temporary one")
    parser.add_argument("--compare", nargs=2, type=Path, metavar="RUN", help="only compare two folders of runs")
    args = parser.parse_args()
    began = time.monotonic()
    try:
        if args.compare:
            found = compare_runs(*args.compare)
        elif args.output is not None:
            found = prove(args, args.output.resolve())
        else:
            with tempfile.TemporaryDirectory() as folder:
                found = prove(args, Path(folder))
    except Failed as failure:
        found = [str(failure)]
    for line in found[:20]:
        print(f"  {line}")
    verdict = f"NOT THE SAME: {len(found)} places" if found else "the same, bit for bit, and nothing left over"
    print(f"{verdict} ({time.monotonic() - began:.0f} s)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
