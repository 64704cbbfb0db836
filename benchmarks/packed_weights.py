"""Measure whole networks in PyTorch on a CPU, with and without packed weights (`cpu_kernels/prepack.py`).

  python benchmarks/packed_weights.py configs/csppelee_efm_sam.yaml configs/yolov3_tiny_prn.yaml --threads 1

Random weights, fused batch norms, batch 1, the config's input size. Passes with and without alternate. Prints the
median and the minimum in milliseconds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch

from cspdet.checkpoints.building import build_detector
from cspdet.inference.engines.cpu_kernels.prepack import prepack
from cspdet.inference.engines.torch_engine import DTYPES
from cspdet.models.fuse import fuse_conv_bn
from cspdet.recipe import load_recipe


def measure(config: Path, precision: str, repeat: int) -> tuple[list[float], list[float]]:
    """Return milliseconds per pass, without and with packed weights."""
    recipe = load_recipe(config)
    network = build_detector(recipe, 80, str(config), pretrained=False).eval()
    original = (fuse_conv_bn(network) or network).to(DTYPES[precision], memory_format=torch.channels_last)
    packed = prepack(copy.deepcopy(original), recipe.input.size)
    if packed is None:
        raise SystemExit(f"{config}: its weights cannot be packed on this machine")
    image = torch.rand(1, 3, *recipe.input.size).to(DTYPES[precision], memory_format=torch.channels_last)
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(repeat + 1):
            for values, variant in zip(times, (original, packed), strict=True):
                start = time.perf_counter()
                variant(image)
                values.append(1000 * (time.perf_counter() - start))
    return times[0][1:], times[1][1:]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| network | threads | precision | without | with | ratio |\n|---|--:|---|--:|--:|--:|")
    for config in args.configs:
        for precision in ("fp32", "bf16"):
            without, packed = measure(config, precision, args.repeat)
            cells = [f"{statistics.median(times):.1f} ({min(times):.1f})" for times in (without, packed)]
            ratio = statistics.median(packed) / statistics.median(without)
            print(f"| {config.stem} | {args.threads} | {precision} | {cells[0]} | {cells[1]} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
