"""Measure the time of assignment and loss as a fraction of the network's time in a training step.

  python benchmarks/loss_cost.py [--batch 64] [--boxes 20] [--size 416] [--classes 80] [--network-batch 16]

Prints milliseconds per batch, the median of `--repeat` runs: the network forward and backward, and assignment with
loss, forward and backward to the raw outputs, for the recipe's assigner and others. The network is measured with
`--network-batch` images and its time is scaled to `--batch`, because a batch of 64 needs 16 GB; the time of
convolutions is proportional to the number of images.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cspdet.device import autocast, resolve_precision
from cspdet.models.head import Anchors
from cspdet.recipe import load_recipe
from cspdet.structures import Targets
from cspdet.training.assigners.config import AnchorIoUConfig, SimOTAConfig
from cspdet.training.cpu_fast_paths import disable_malloc_trim
from cspdet.training.losses.yolo import yolo_loss

CONFIG = Path(__file__).parents[1] / "configs/csppelee_efm_sam.yaml"

ASSIGNERS = {  # in addition to the recipe's own
    "match_ratio 4, neighbors 3": AnchorIoUConfig(match_ratio=4.0, neighbors=3),
    "simota": SimOTAConfig(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 64), ("boxes", 20), ("size", 416), ("classes", 80), ("network-batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    args = parser.parse_args()
    disable_malloc_trim()
    torch.manual_seed(0)
    device = torch.device("cpu")
    precision = resolve_precision(args.precision, device)
    recipe = load_recipe(CONFIG)
    model = recipe.model.build(args.classes).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(args.network_batch, 3, args.size, args.size).to(memory_format=torch.channels_last)

    def network() -> None:
        with autocast(device, precision):
            raw = model(images)
        torch.autograd.backward(raw, [torch.ones_like(level) for level in raw])
        model.zero_grad()

    raw = [torch.randn(args.batch, 3, args.size // s, args.size // s, 5 + args.classes) for s in model.strides]
    raw = [(level - 2 * (torch.arange(5 + args.classes) == 4)).requires_grad_() for level in raw]
    truth = random_targets(args.batch, args.boxes, args.size, args.classes)
    anchors: Anchors = model.anchors

    def loss(rule: AnchorIoUConfig) -> None:
        yolo_loss(tuple(raw), truth, anchors, recipe.train.loss, rule.build()).total.backward()
        for level in raw:
            level.grad = None

    network_ms = median_ms(network, args.repeat) * args.batch / args.network_batch
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, network in {precision}")
    print(f"batch {args.batch}, {args.boxes} boxes per image, {args.size}x{args.size}, {args.classes} classes")
    print(f"network forward and backward          {network_ms:9.0f} ms", flush=True)
    for name, rule in {"the recipe's assigner": recipe.train.assigner, **ASSIGNERS}.items():
        loss_ms = median_ms(functools.partial(loss, rule), args.repeat)
        result = f"{loss_ms:9.0f} ms  ({loss_ms / network_ms:.1%} of the network)"
        print(f"assignment and loss, fwd and bwd      {result}  {name}", flush=True)


def random_targets(images: int, boxes: int, size: int, classes: int) -> Targets:
    """Boxes of log-uniform sizes from 12 pixels to half the image, anywhere inside."""
    count = images * boxes
    wh = torch.exp(torch.empty(count, 2).uniform_(2.5, torch.tensor(size / 2.0).log().item()))
    low = torch.rand(count, 2) * (size - wh)
    image = torch.arange(images).repeat_interleave(boxes)
    return Targets(image, torch.randint(classes, (count,)), torch.cat((low, low + wh), 1), torch.zeros(count).bool())


def median_ms(run: Callable[[], None], repeat: int) -> float:
    """Return the median time of a call in ms, after one warm-up call."""
    times = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
