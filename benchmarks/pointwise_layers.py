"""Compare 1x1 convolutions of torch with the trainer's kernels, forward and backward, by map size.

  python benchmarks/pointwise_layers.py --threads 2 --batch 16

Prints the time of the trainer's kernel (cspdet/training/cpu_fast_paths/pointwise.py: a matrix product, or re-batched
images) divided by that of torch. Both alternate, and the fastest run of each counts.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from cspdet.training.cpu_fast_paths import pointwise

CHANNELS = ((32, 64), (64, 64), (128, 128), (256, 256), (512, 256), (512, 512), (2048, 1024))
SIDES = (3, 6, 10, 13, 20, 26, 40, 52, 80)
MAX_ELEMENTS = 30_000_000  # of the maps of a layer


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last).requires_grad_()


def ratio(batch: int, side: int, channels: tuple[int, int], repeat: int) -> float:
    """Time of the trainer's kernel divided by that of torch, for one layer."""
    image, weight = tensor(batch, channels[0], side, side), tensor(channels[1], channels[0], 1, 1)
    result = tensor(batch, channels[1], side, side).detach()
    times: dict[str, list[float]] = {"torch": [], "ours": []}
    for _ in range(repeat):
        for name, function in (("torch", F.conv2d), ("ours", pointwise.conv2d)):
            image.grad = weight.grad = None
            start = time.perf_counter()
            function(image, weight).backward(result)
            times[name].append(time.perf_counter() - start)
    return min(times["ours"]) / min(times["torch"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", torch.get_num_threads()), ("batch", 16), ("repeat", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pointwise.MAX_MATMUL_PIXELS = max(SIDES) ** 2
    print("| map | " + " | ".join(f"{a} to {b}" for a, b in CHANNELS) + " |")
    print("|---|" + "--:|" * len(CHANNELS))
    for side in SIDES:
        cells = [
            f"{ratio(args.batch, side, each, args.repeat):.2f}"
            if args.batch * side**2 * sum(each) < MAX_ELEMENTS
            else ""
            for each in CHANNELS
        ]
        print(f"| {side}x{side} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
