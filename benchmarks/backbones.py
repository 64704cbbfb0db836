"""Compare classifiers of cspdet with torchvision's: parameters, BFLOPs and milliseconds per image.

  python benchmarks/backbones.py [--size 224] [--batch 1] [--repeat 20] [--only csp,resnet50] [--device cpu]

All have random weights. They alternate within one process, so that machine drift affects all of them equally. Prints
the median and the 95th percentile of the forward pass.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import nn

from cspdet.config.loader import load_config
from cspdet.device import select_device
from cspdet.models.profile import profile
from cspdet.recipe import ClassificationRecipe

CONFIGS = sorted((Path(__file__).parents[1] / "configs/classification").glob("*.yaml"))
TORCHVISION = ("resnet50", "resnet101", "resnet152", "densenet121")


def builders() -> dict[str, Callable[[], nn.Module]]:
    """Map the name of each network in the table to its constructor."""
    found: dict[str, Callable[[], nn.Module]] = {
        f"torchvision {name}": lambda name=name: torchvision.models.get_model(name, weights=None)
        for name in TORCHVISION
    }
    for path in CONFIGS:
        found[path.stem] = lambda path=path: load_config(path, ClassificationRecipe).model.build()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 224), ("batch", 1), ("repeat", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="", help="rows whose name has one of these comma-separated words")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device, words = select_device(args.device), args.only.split(",")
    chosen = {name: build for name, build in builders().items() if any(word in name for word in words)}
    size = (args.size, args.size)
    costs = {name: profile(build(), size) for name, build in chosen.items()}
    networks = {name: build().eval().to(device, memory_format=torch.channels_last) for name, build in chosen.items()}
    images = torch.rand(args.batch, 3, *size, device=device).to(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for turn in range(args.repeat + 2):
            for name, network in networks.items():
                started = time.perf_counter()
                network(images)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if turn > 1:  # the first two warm up
                    times[name].append(1000 * (time.perf_counter() - started))
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, fp32")
    print(f"batch {args.batch} at {args.size}x{args.size}\n")
    print("| model | parameters M | BFLOPs | ms, median | ms, 95% |\n|---|---|---|---|---|")
    for name, found in times.items():
        late = sorted(found)[int(0.95 * (len(found) - 1))]
        cost = costs[name]
        median, parameters = statistics.median(found), cost.parameters / 1e6
        print(f"| {name} | {parameters:.2f} | {cost.bflops:.3f} | {median:.1f} | {late:.1f} |")


if __name__ == "__main__":
    main()
