"""Compare single 3x3 layers in OpenVINO without and with Winograd's algorithm, and with the estimated time ratio.

  python benchmarks/winograd_layers.py --threads 1

Three layers in a row, each after the 1x1 layer that produces its input, as in the networks. The time of the 1x1 layers,
from OpenVINO's own counters, is subtracted. Both graphs alternate; the median over the passes counts.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import openvino
from openvino import opset8 as ops

from cspdet.inference.engines.cpu_kernels.winograd import MAX_TIME_RATIO, estimated_time_ratio, use_winograd

# channels of the input and the output, and the side of the map
LAYERS = (
    (32, 64, 128), (64, 64, 64), (64, 128, 64), (64, 128, 52), (128, 128, 32), (128, 256, 64), (128, 256, 32),
    (256, 512, 32), (256, 512, 26), (256, 512, 16), (512, 1024, 20), (512, 1024, 19), (512, 1024, 16),
    (512, 1024, 13), (512, 1024, 8), (256, 256, 13), (512, 512, 7),
)  # fmt: skip
REPEATED = 3


def graph(channels: int, out_channels: int, side: int) -> openvino.Model:
    """Build the graph, from (1, out_channels, side, side) to the same shape."""
    random = np.random.default_rng(0)
    image = value = ops.parameter([1, out_channels, side, side], np.float32)
    for _ in range(REPEATED):
        for shape in ((channels, out_channels, 1, 1), (out_channels, channels, 3, 3)):
            weight = (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
            pad = [shape[2] // 2] * 2
            value = ops.convolution(value, ops.constant(weight), [1, 1], pad, pad, [1, 1])
            value = ops.prelu(value, ops.constant(np.float32([0.1])))
    return openvino.Model([value], [image], "layers")


def request(model: openvino.Model, threads: int) -> openvino.InferRequest:
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": "YES"}
    options["INFERENCE_NUM_THREADS"] = str(threads)
    return openvino.Core().compile_model(model, "CPU", options).create_infer_request()


def layer_ms(run: openvino.InferRequest, image: np.ndarray) -> float:
    start = time.perf_counter()
    run.infer([image])
    taken = 1000 * (time.perf_counter() - start)
    others = sum(node.real_time.microseconds for node in run.profiling_info if "1x1" in node.exec_type) / 1000
    return float(taken - others) / REPEATED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=20)
    args = parser.parse_args()
    print("| channels | map | without ms | with ms | ratio | estimate | used |")
    print("|---|--:|--:|--:|--:|--:|---|")
    limit = MAX_TIME_RATIO
    for channels, out_channels, side in LAYERS:
        plain, rewritten = graph(channels, out_channels, side), graph(channels, out_channels, side)
        assert use_winograd(rewritten, max_time_ratio=float("inf")) == REPEATED
        runs = [request(model, args.threads) for model in (plain, rewritten)]
        image = np.random.default_rng(1).standard_normal((1, out_channels, side, side)).astype(np.float32)
        times = [[layer_ms(run, image) for run in runs] for _ in range(args.repeat)][1:]
        without, with_it = (statistics.median(column) for column in zip(*times, strict=True))
        estimate = estimated_time_ratio((channels, out_channels), (side, side))
        used = "yes" if estimate <= limit else "no"
        print(
            f"| {channels} to {out_channels} | {side}x{side} | {without:.2f} | {with_it:.2f} | {with_it / without:.2f} "
            f"| {estimate:.2f} | {used} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
