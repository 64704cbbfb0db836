"""Measure a training step: images per second, time of its parts, fraction of peak matrix throughput, memory.

  python benchmarks/train_speed.py configs/csppelee_efm_sam.yaml --size 256x320 --batch 8 --threads 1
  python benchmarks/train_speed.py configs/*.yaml --precision fp32,bf16 --json
  python benchmarks/train_speed.py configs/csppelee_efm_sam.yaml --compile --no-compile --reuse-memory --no-reuse-memory

Steps are those of `cspdet train`: batch, to_input, forward, loss, backward, clipping with SGD, EMA, on the built-in
shapes (a classifier: on the objects cropped from them) or --data. Every row has its own process. All rows and the
matrix product alternate, to cancel machine drift: compare rows of one run. Images per second and parts are medians. A
training step counts as three forward passes of operations. CPU ms is the CPU time of the process over all threads; wall
time above it indicates that other programs used the CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

from training_step import PARTS, Loaded, Variant

from cspdet.benchmark.ipc import Worker, WorkerError
from cspdet.benchmark.matmul_peak import DTYPES
from cspdet.benchmark.rows import interleave
from cspdet.datasets.classification.crop_objects import crop_objects
from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.errors import ConfigError, UserError
from cspdet.recipe import infer_task

TURNS = 6
PAUSE = 0.3  # seconds between rows: the previous row's threads stop spinning
PASSES = 3  # forward passes with the operations of one step: one forward, two backward
STEP = Path(__file__).with_name("training_step.py")


@dataclass
class Measured:
    """A row that is being measured."""

    variant: Variant
    worker: Worker
    about: Loaded
    peaks: list[float]  # GFLOP/s of the matrix product, shared with rows of the same precision
    parts: list[dict[str, float]] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)  # ms per step
    cpu: list[float] = field(default_factory=list)  # CPU ms per step, over all threads


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print; return exit code 0, or 2 after an error."""
    args = _parser().parse_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            variants = _variants(args, Path(folder))
            rows = measure(variants, args.steps, args.warm_up, args.threads, stack)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(table(rows)))
    return 0


def measure(
    variants: Sequence[Variant], steps: int, warm_up: int, threads: int | None, stack: ExitStack
) -> list[dict[str, object]]:
    """Measure all variants; return the rows of `--json` in the same order.

    Raises:
        WorkerError: a variant cannot be trained.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}

    def start(command: list[str]) -> Worker:
        worker = Worker([sys.executable, *command], environment)
        stack.callback(worker.close)
        return worker

    started = [start([str(STEP)]) for _ in variants]
    rows: list[Measured] = []
    products: dict[str, Worker] = {}
    peaks: dict[str, list[float]] = {}
    for variant, worker in zip(variants, started, strict=True):
        about = _load(variant, worker)
        rows.append(Measured(variant, worker, about, peaks.setdefault(about.precision, [])))
        if about.precision not in products:
            products[about.precision] = start(["-m", "cspdet.benchmark.worker"])
            products[about.precision].request(
                {"do": "matmul", "precision": about.precision, "device": variant.device.replace("auto", "cpu")}
            )
    for number, count in enumerate(interleave(steps, TURNS)):
        for precision, worker in products.items():
            time.sleep(PAUSE)
            worker.request({"do": "gflops"})  # the first product of a turn wakes the threads
            peaks[precision].append(max(worker.request({"do": "gflops"})["gflops"] for _ in range(2)))
        for row in rows:
            time.sleep(PAUSE)
            _turn(row, count, warm_up if number == 0 else 0)
    return [_finish(row) for row in rows]


def _load(variant: Variant, worker: Worker) -> Loaded:
    try:
        about = worker.request({"do": "load", "variant": asdict(variant)})["about"]
    except WorkerError as error:
        raise WorkerError(*(f"{variant.config}, {variant.precision}: {line}" for line in error.problems)) from None
    return Loaded(**{**about, "size_hw": tuple(about["size_hw"])})


def _turn(row: Measured, count: int, warm_up: int) -> None:
    """Run steps of one row; on CUDA also as many steps without timed parts."""
    on_cuda = row.variant.device.startswith("cuda")
    for parts in (True, False) if on_cuda else (True,):
        row.worker.request({"do": "steps", "count": warm_up, "parts": parts})
        found = row.worker.request({"do": "steps", "count": count, "parts": parts})["steps"]
        if parts:
            row.parts += found
        if parts != on_cuda:
            row.cpu += [step["cpu"] for step in found]
            row.whole += [sum(step.values()) - step["cpu"] for step in found]


def _finish(row: Measured) -> dict[str, object]:
    about, milliseconds = row.about, statistics.median(row.whole)
    rate = 1000 * about.batch / milliseconds
    spent = {part: sum(step[part] for step in row.parts) for part in PARTS}
    peak = statistics.median(row.peaks)
    return {
        "config": row.variant.config,
        "size": list(about.size_hw),
        "batch": about.batch,
        "precision": about.precision,
        "compiled": row.variant.compiled,
        "channels_last": row.variant.channels_last,
        "reuse_memory": row.variant.reuse_memory,
        "workers": row.variant.workers,
        "threads": about.threads,
        "steps": len(row.whole),
        "images_per_second": rate,
        "step_ms": milliseconds,
        "cpu_ms": statistics.median(row.cpu),
        "parts_ms": {part: statistics.median(step[part] for step in row.parts) for part in PARTS},
        "data_wait_fraction": spent["data"] / sum(spent.values()),
        "bflops": about.bflops,
        "bflops_per_second": rate * about.bflops,
        "step_gflops": PASSES * rate * about.bflops,
        "gemm_peak_gflops": peak,
        "fraction_of_peak": PASSES * rate * about.bflops / peak,
        "peak_memory_mib": row.worker.request({"do": "memory"})["peak_mib"],
        "parameters": about.parameters,
        "images": about.images,
        "device": about.device,
        "torch": about.torch,
    }


def table(rows: Sequence[dict[str, object]]) -> list[str]:
    """Format the rows in Markdown, with the machine and the software."""
    first = rows[0]
    threads = first["threads"]
    lines = [f"torch {first['torch']}, {first['device']}, {threads} thread{'s' if threads != 1 else ''}"]
    peaks = {row["precision"]: row["gemm_peak_gflops"] for row in rows}
    lines += [f"matrix product in {precision}: {peak:.0f} GFLOP/s" for precision, peak in peaks.items()]
    head = ("config", "options", "size", "batch", "images/s", "ms a step", "CPU ms", *PARTS, "waits for data", "BFLOPs",
            "BFLOPs/s", "step GFLOP/s", "of peak", "memory MiB")  # fmt: skip
    lines += ["", f"| {' | '.join(head)} |", "|---|---|---|" + "---:|" * (len(head) - 3)]
    return [*lines, *(f"| {' | '.join(_cells(row))} |" for row in rows)]


def _cells(row: dict[str, object]) -> list[str]:
    labels = [str(row["precision"])]
    labels += ["compiled"] if row["compiled"] else []
    labels += [] if row["channels_last"] else ["channels first"]
    labels += [] if row["reuse_memory"] else ["memory not reused"]
    size, parts = row["size"], row["parts_ms"]
    assert isinstance(size, list)
    assert isinstance(parts, dict)
    return [
        Path(str(row["config"])).stem, ", ".join(labels), "x".join(map(str, size)), str(row["batch"]),
        f"{row['images_per_second']:.2f}", f"{row['step_ms']:.1f}",
        f"{row['cpu_ms']:.1f}", *(f"{parts[part]:.1f}" for part in PARTS),
        f"{row['data_wait_fraction']:.1%}", f"{row['bflops']:.3f}", f"{row['bflops_per_second']:.1f}",
        f"{row['step_gflops']:.1f}", f"{row['fraction_of_peak']:.0%}", f"{row['peak_memory_mib']:.0f}",
    ]  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("configs", nargs="+", metavar="CONFIG", help="detectors or classifiers")
    add("--data", type=Path, help="a descriptor, for detectors, or a folder of train/CLASS/*, for classifiers")
    add("--size", type=_size, metavar="HxW", help="input size, or one number for a square (default: the config's)")
    add("--batch", type=int, metavar="N", help="images per step (default: the config's)")
    add("--steps", type=int, default=24, metavar="N", help="measured steps per row (default: %(default)s)")
    add("--warm-up", type=int, default=2, metavar="N", help="warm-up steps per row (default: %(default)s)")
    add("--precision", default="fp32", metavar="NAME,..", help="auto, fp32, bf16, fp16 (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="number of CPU threads (default: torch's)")
    add("--workers", type=int, default=0, metavar="N", help="loader processes (default: %(default)s)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    options = parser.add_argument_group("options", "give both of a pair to compare them")
    for name, what in (
        ("compile", "with torch.compile"),
        ("channels-last", "weights and images in this layout (default)"),
        ("reuse-memory", "reuse freed memory between steps, on a CPU (default)"),
    ):
        dest = name.replace("-", "_")
        options.add_argument(f"--{name}", dest=dest, action="append_const", const=True, help=what)
        options.add_argument(f"--no-{name}", dest=dest, action="append_const", const=False, help="without it")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override in the config")
    add("--json", action="store_true", help="print the rows as JSON")
    return parser


def _size(text: str) -> tuple[int, int]:
    sides = [int(side) for side in text.split("x")]
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"expected HxW or one number, found {text!r}")
    return sides[0], sides[-1]


def _variants(args: argparse.Namespace, folder: Path) -> list[Variant]:
    """List every config with every requested combination of settings.

    Raises:
        ConfigError: an invalid number or precision.
    """
    for name in ("steps", "batch", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name}: expected 1 or more, found {value}")
    for name in ("warm_up", "workers"):
        if getattr(args, name) < 0:
            raise ConfigError(f"--{name.replace('_', '-')}: expected 0 or more, found {getattr(args, name)}")
    precisions = args.precision.split(",")
    unknown = sorted(set(precisions) - {"auto", *DTYPES})
    if unknown:
        raise ConfigError(f"--precision: expected auto, {', '.join(DTYPES)}, found {', '.join(unknown)}")
    data = {config: _data(Path(config), args, folder) for config in args.configs}
    defaults = ((args.compile, False), (args.channels_last, True), (args.reuse_memory, True))
    combinations = product(precisions, *(given or [value] for given, value in defaults))
    return [
        Variant(
            config, str(data[config]), args.device, precision, args.batch, args.size, args.workers,
            compiled, channels_last, reuse_memory, tuple(args.overrides),
        )
        for (precision, compiled, channels_last, reuse_memory), config in product(list(combinations), args.configs)
    ]  # fmt: skip


def _data(config: Path, args: argparse.Namespace, folder: Path) -> Path:
    """Return --data if it matches the config's task, else the built-in dataset, made in `folder` on first use."""
    classifier = infer_task(config) == "classification"
    if args.data is not None and args.data.is_dir() == classifier:
        return args.data.absolute()
    shapes = folder / "shapes"
    if not shapes.exists():
        make_shapes(shapes, images=max(64, 4 * (args.batch or 16)))
    objects = folder / "objects"
    if classifier and not objects.exists():
        crop_objects(shapes / "shapes.yaml", objects)
    return objects if classifier else shapes / "shapes.yaml"


if __name__ == "__main__":
    sys.exit(main())
