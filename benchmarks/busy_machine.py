r"""Compare settings of the OpenMP runtime: a convolution step of torch, on an idle machine and next to busy processes.

  python benchmarks/busy_machine.py
  python benchmarks/busy_machine.py --settings default GOMP_SPINCOUNT=1000,GOMP_SPINCOUNT=10000 --busy 0,1,2 --json
  python benchmarks/busy_machine.py --settings default command --train configs/csppelee_efm_sam.yaml \
      data=data/shapes/shapes.yaml input.size=160 train.epochs=2 train.batch_size=8

OpenMP threads spin at the end of a parallel region before they sleep. With a core for every thread this saves the
wake-up; next to other processes the spinning thread takes the core from the thread that it waits for. `default` is the
runtime without any setting.

Every setting has its own process, which sets its variables in os.environ before it imports torch, like the command.
All settings alternate in each condition. The table has the fastest and the median step; compare settings within
one run, and measure on a machine that runs nothing else. With --train, `cspdet train` runs once per setting and turn
with the given words, and the table has images per second instead; the setting `command` leaves all variables to it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_SETTINGS = (
    "default", "GOMP_SPINCOUNT=300", "GOMP_SPINCOUNT=1000", "GOMP_SPINCOUNT=3000", "GOMP_SPINCOUNT=10000",
    "GOMP_SPINCOUNT=30000", "OMP_WAIT_POLICY=PASSIVE",
)  # fmt: skip
LIBGOMP_DEFAULT_SPINCOUNT = (
    "300000"  # of libgomp with OMP_WAIT_POLICY undefined; keeps the command from setting its own
)
PAUSE = 0.3  # seconds between turns: the threads of the previous process stop spinning


@dataclass
class Series:
    """The values of one setting in one condition."""

    setting: str
    busy: int
    values: list[float] = field(default_factory=list)


def parse_setting(text: str) -> dict[str, str]:
    """Environment variables of a setting: `default` has none, `A=1+B=2` has two."""
    return {} if text == "default" else dict(word.split("=", 1) for word in text.split("+"))


# --- the convolution step -------------------------------------------------------------------------


def serve_steps(setting: str, threads: int) -> None:
    """Worker process: read a number of seconds per line, answer with the milliseconds of every step in that time."""
    os.environ.update(parse_setting(setting))
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())]
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    images = torch.rand(4, 64, 40, 40).contiguous(memory_format=torch.channels_last)

    def step() -> float:
        start = time.perf_counter()
        network(images).square().mean().backward()
        return 1000 * (time.perf_counter() - start)

    step()
    print("ready", flush=True)
    for line in sys.stdin:
        end = time.perf_counter() + float(line)
        times = [step()]
        while time.perf_counter() < end:
            times.append(step())
        print(json.dumps(times), flush=True)


@contextmanager
def step_workers(settings: Sequence[str], threads: int) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One worker process per setting, by setting."""
    workers: dict[str, subprocess.Popen[str]] = {}
    try:
        for setting in settings:
            command = [sys.executable, __file__, "--worker", setting, "--threads", str(threads)]
            workers[setting] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert workers[setting].stdout is not None
            if workers[setting].stdout.readline().strip() != "ready":
                raise SystemExit(f"{setting}: its process ended before the first step")
        yield workers
    finally:
        for worker in workers.values():
            worker.communicate()


def measure_steps(args: argparse.Namespace) -> list[Series]:
    """Milliseconds per step of every setting in every condition, in turns."""
    series = {(busy, setting): Series(setting, busy) for busy in args.busy for setting in args.settings}
    with step_workers(args.settings, args.threads) as workers:
        for _ in range(args.rounds):
            for busy in args.busy:
                with busy_loops(busy):
                    for setting, worker in workers.items():
                        time.sleep(PAUSE)
                        assert worker.stdin is not None
                        assert worker.stdout is not None
                        worker.stdin.write(f"{args.seconds}\n")
                        worker.stdin.flush()
                        series[busy, setting].values += json.loads(worker.stdout.readline())
    return list(series.values())


# --- busy loops -----------------------------------------------------------------------------------


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Run `count` processes that do nothing but use a core."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_loop, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    time.sleep(1 if processes else 0)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _loop() -> None:
    while True:
        pass


# --- training -------------------------------------------------------------------------------------


def measure_training(args: argparse.Namespace) -> list[Series]:
    """Images per second of `cspdet train` with every setting in every condition, in turns."""
    series = {(busy, setting): Series(setting, busy) for busy in args.busy for setting in args.settings}
    for _ in range(args.rounds):
        for busy in args.busy:
            with busy_loops(busy):
                for setting in args.settings:
                    series[busy, setting].values.append(_images_per_second(setting, args.train, args.threads))
    return list(series.values())


def _images_per_second(setting: str, words: Sequence[str], threads: int) -> float:
    variables = {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": LIBGOMP_DEFAULT_SPINCOUNT}
    environment = dict(os.environ) if setting == "command" else {**os.environ, **variables, **parse_setting(setting)}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [sys.executable, "-m", "cspdet", "train", *words, "--output", str(output)]
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["images_per_second"] for line in lines if "images_per_second" in line)


# --- the command ----------------------------------------------------------------------------------


def table(series: Sequence[Series], *, higher_is_better: bool) -> list[str]:
    """Markdown: the best and the median value, and how often faster than `default` in the same condition."""
    first = {row.busy: row for row in reversed(series)}
    best = max if higher_is_better else min
    unit = "images/s" if higher_is_better else "ms"
    lines = [f"| busy processes | setting | best {unit} | median {unit} | speed, best | speed, median |"]
    lines.append("|---:|---|---:|---:|---:|---:|")
    for row in series:
        base = first[row.busy].values
        ratios = [best(row.values) / best(base), statistics.median(row.values) / statistics.median(base)]
        speeds = ratios if higher_is_better else [1 / ratio for ratio in ratios]
        lines.append(
            f"| {row.busy} | {row.setting} | {best(row.values):.1f} | {statistics.median(row.values):.1f} | "
            f"{speeds[0]:.2f} | {speeds[1]:.2f} |"
        )
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--settings", nargs="+", default=DEFAULT_SETTINGS, metavar="NAME=VALUE",
        help="settings to compare with the first; + joins the variables of one setting (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--busy", default="0,2", metavar="N,..", help="numbers of busy processes (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every setting (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="seconds of steps per turn (default: %(default)s)")
    parser.add_argument("--train", nargs="+", metavar="WORD", help="run `cspdet train` with these words instead")
    parser.add_argument("--json", action="store_true", help="print all values as JSON")
    parser.add_argument("--worker", metavar="SETTING", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Measure and print."""
    args = _parser().parse_args()
    if args.worker is not None:
        serve_steps(args.worker, args.threads)
        return
    args.busy = [int(word) for word in args.busy.split(",")]
    series = measure_training(args) if args.train else measure_steps(args)
    if args.json:
        print(json.dumps([vars(row) for row in series]))
    else:
        print(f"{args.threads} threads of {os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f}")
        print("\n".join(table(series, higher_is_better=bool(args.train))))


if __name__ == "__main__":
    main()
