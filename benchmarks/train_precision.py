"""Pictures a second of a whole training step in fp32 and in bf16, side by side in one run.

  python benchmarks/train_precision.py [--batch 8] [--size 320] [--repeat 6] [--device cpu]

A step is forward, loss, backward, clipping, SGD and the average, on ready batches with 15 boxes a picture. The two
precisions take turns, so that both see the same machine; the best and the median of each are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from cspdet.precision import Precision, autocast, cpu_multiplies_bf16, pick_device
from cspdet.recipe import load_recipe
from cspdet.training.loss import yolo_loss
from cspdet.training.memory import reuse_freed_memory
from cspdet.training.state import TrainingState
from cspdet.types import Targets

CONFIG = Path(__file__).parents[1] / "configs/csppelee_efm_sam.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8), ("size", 320), ("boxes", 15), ("classes", 3), ("repeat", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = pick_device(args.device)
    if device.type == "cpu":
        reuse_freed_memory()
    torch.manual_seed(0)
    recipe = load_recipe(CONFIG)
    state = TrainingState(recipe.model.build(args.classes), recipe.train, device, "fp32")
    images = torch.rand(args.batch, 3, args.size, args.size, device=device).to(memory_format=torch.channels_last)
    low = torch.rand(args.batch * args.boxes, 2) * args.size * 0.8
    box = torch.cat((low, low + args.size * (0.05 + 0.15 * torch.rand_like(low))), 1)
    image = torch.arange(args.batch).repeat_interleave(args.boxes)
    truth = Targets(image, torch.randint(args.classes, image.shape), box, torch.zeros(len(box)).bool()).to(device)

    def step(precision: Precision) -> float:
        started = time.perf_counter()
        with autocast(device, precision):
            raw = state.model(images)
        yolo_loss(raw, truth, state.model.anchors, recipe.train.loss, recipe.train.assign).total.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), 10.0)
        state.optimizer.step()
        state.optimizer.zero_grad()
        if state.ema is not None:
            state.ema.update(state.model)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    times: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    for turn in range(args.repeat + 1):
        for precision in precisions:
            seconds = step(precision)
            if turn:  # the first turn warms up
                times[precision].append(seconds)
    amx = ", CPU with AMX" if cpu_multiplies_bf16() else ", CPU without AMX"
    print(
        f"torch {torch.__version__}, {device}{amx if device.type == 'cpu' else ''}, {torch.get_num_threads()} threads"
    )
    print(f"batch {args.batch} at {args.size}x{args.size}, images/s")
    for precision, seconds in times.items():
        print(
            f"{precision}  median {args.batch / statistics.median(seconds):7.1f}  best {args.batch / min(seconds):7.1f}"
        )
    ratio = statistics.median(times["fp32"]) / statistics.median(times["bf16"])
    print(f"bf16 over fp32, medians: {ratio:.2f}")


if __name__ == "__main__":
    main()
