"""Training steps with and without the reuse of freed memory, in processes that take turns.

  python benchmarks/memory_reuse.py [--batch 8] [--size 320] [--repeat 5] [--turns 3]

Each process makes two steps to warm up and `repeat` that count; the medians of all turns are printed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import torch
from training_step import TrainingStep

from cspdet.training.memory import reuse_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8), ("size", 320), ("repeat", 5), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--worker", choices=("reuse", "default"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        if args.worker == "reuse":
            reuse_freed_memory()
        step = TrainingStep(batch=args.batch, size=args.size, boxes=15, classes=3, device="cpu")
        print(*[step() for _ in range(args.repeat + 2)][2:])
        return
    seconds: dict[str, list[float]] = {"default": [], "reuse": []}
    for _ in range(args.turns):
        for worker, found in seconds.items():
            command = [sys.executable, __file__, "--worker", worker]
            command += [f"--{name}={getattr(args, name)}" for name in ("batch", "size", "repeat")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found += [float(word) for word in done.stdout.split()]
    default, reuse = (statistics.median(found) for found in seconds.values())
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {args.batch} at {args.size}x{args.size}"
    )
    print(f"default  {1000 * default:7.1f} ms a step")
    print(f"reuse    {1000 * reuse:7.1f} ms a step, {1 - reuse / default:.1%} less")


if __name__ == "__main__":
    main()
