"""Measure activation gradients with and without a contiguous copy of the incoming gradient.

  python benchmarks/activation_gradients.py --threads 1

The incoming gradient is a channel slice of a concatenation's gradient (of 256 channels, maps of 28x36). Prints the time
with the copy divided by the time without it, by precision, activation and channels of the slice. Both alternate, and
the fastest run of each counts. Below 1 the copy is faster: see cspdet.training.cpu_fast_paths.switch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky ReLU": lambda x: F.leaky_relu(x, 0.1), "ReLU": F.relu, "SiLU": F.silu, "Mish": F.mish,
}  # fmt: skip
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHANNELS = (16, 32, 64, 128)


def ratio(dtype: torch.dtype, activate: Callable[[Tensor], Tensor], channels: int, batch: int, repeat: int) -> float:
    """Time of the gradient with a contiguous copy, divided by the time without it."""
    layout = torch.channels_last
    image = torch.randn(batch, channels, 28, 36, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    whole = torch.randn(batch, 256, 28, 36, dtype=dtype).contiguous(memory_format=layout)
    part = whole[:, 64 : 64 + channels]
    output = activate(image)
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeat):
        for copied, found in times.items():
            start = time.perf_counter()
            result = part.contiguous(memory_format=layout) if copied else part
            torch.autograd.grad(output, image, result, retain_graph=True)
            found.append(time.perf_counter() - start)
    return min(times[True]) / min(times[False])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", torch.get_num_threads()), ("batch", 8), ("repeat", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| precision | activation | " + " | ".join(f"{channels} channels" for channels in CHANNELS) + " |")
    print("|---|---|" + "--:|" * len(CHANNELS))
    for precision, dtype in PRECISIONS.items():
        for name, activate in ACTIVATIONS.items():
            cells = [f"{ratio(dtype, activate, channels, args.batch, args.repeat):.2f}" for channels in CHANNELS]
            print(f"| {precision} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
