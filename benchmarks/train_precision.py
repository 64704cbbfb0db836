"""Pictures a second of a whole training step in fp32 and in bf16, side by side in one run.

  python benchmarks/train_precision.py [--batch 8] [--size 320] [--repeat 6] [--device cpu]

A step is forward, loss, backward, clipping, SGD and the average, on ready batches with 15 boxes a picture. The two
precisions take turns, so that both see the same machine; the best and the median of each are printed.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from training_step import TrainingStep

from cspdet.precision import Precision, cpu_multiplies_bf16
from cspdet.training.memory import reuse_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8), ("size", 320), ("boxes", 15), ("classes", 3), ("repeat", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    step = TrainingStep(batch=args.batch, size=args.size, boxes=args.boxes, classes=args.classes, device=args.device)
    if step.device.type == "cpu":
        reuse_freed_memory()
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    times: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    for turn in range(args.repeat + 1):
        for precision in precisions:
            seconds = step(precision)
            if turn:  # the first turn warms up
                times[precision].append(seconds)
    amx = f", CPU {'with' if cpu_multiplies_bf16() else 'without'} AMX" if step.device.type == "cpu" else ""
    print(f"torch {torch.__version__}, {step.device}{amx}, {torch.get_num_threads()} threads")
    print(f"batch {args.batch} at {args.size}x{args.size}, images/s")
    for precision, seconds in times.items():
        median, best = statistics.median(seconds), min(seconds)
        print(f"{precision}  median {args.batch / median:7.1f}  best {args.batch / best:7.1f}")
    ratio = statistics.median(times["fp32"]) / statistics.median(times["bf16"])
    print(f"bf16 over fp32, medians: {ratio:.2f}")


if __name__ == "__main__":
    main()
