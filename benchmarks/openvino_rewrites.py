"""Measure whole networks in OpenVINO, fp32, unchanged and with Winograd convolutions.

  python benchmarks/openvino_rewrites.py configs/csppelee_efm_sam.yaml configs/yolov3_tiny_prn.yaml --threads 2

Random weights, batch 1, the config's own input size. All variants alternate. Prints the median and the minimum in
milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import openvino
import torch

from cspdet.checkpoints.loading import load_model
from cspdet.inference.engines.cpu_kernels.openvino_graph import fold_constants
from cspdet.inference.engines.cpu_kernels.winograd import use_winograd
from cspdet.inference.engines.onnx_export import output_names, to_onnx
from cspdet.inference.engines.openvino_engine import read_model
from cspdet.inference.metadata import build_metadata
from cspdet.models.fuse import fuse_conv_bn

VARIANTS = ("unchanged", "Winograd")


def request(onnx: bytes, size_hw: tuple[int, int], variant: int, threads: int) -> tuple[openvino.InferRequest, int]:
    """A network ready to run in a variant, and how many of its layers are Winograd's."""
    model, layers = read_model(onnx), 0
    model.reshape([1, 3, *size_hw])
    if variant == 1:
        fold_constants(model)
        layers = use_winograd(model)
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    options["INFERENCE_NUM_THREADS"] = str(threads)
    return openvino.Core().compile_model(model, "CPU", options).create_infer_request(), layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=30)
    args = parser.parse_args()
    print("| network | layers | " + " | ".join(VARIANTS) + " |")
    print("|---|--:|" + "--:|" * len(VARIANTS))
    for config in args.configs:
        bundle = load_model(config)
        facts = build_metadata(bundle)
        names = output_names(facts.outputs, facts.strides)
        onnx = to_onnx(
            fuse_conv_bn(bundle.detector) or bundle.detector,
            facts.size_hw,
            names,
            size_divisor=max(facts.strides),
            dynamic=True,
        )
        runs = [request(onnx, facts.size_hw, variant, args.threads) for variant in range(len(VARIANTS))]
        image = np.random.default_rng(0).random((1, 3, *facts.size_hw), dtype=np.float32)
        times: list[list[float]] = [[] for _ in runs]
        for _ in range(args.repeat + 1):
            for taken, (run, _) in zip(times, runs, strict=True):
                start = time.perf_counter()
                run.infer([image], share_inputs=True)
                taken.append(1000 * (time.perf_counter() - start))
        cells = [f"{statistics.median(taken[1:]):.1f} ({min(taken[1:]):.1f})" for taken in times]
        print(f"| {facts.name} | {runs[-1][1]} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
