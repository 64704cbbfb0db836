"""Peak throughput of the machine, measured with a large matrix multiplication; the reference for network throughput."""

from __future__ import annotations

import time

import torch

MATRIX_SIZE = {"cpu": 3072, "cuda": 8192}  # larger matrices are not faster
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class MatmulBenchmark:
    """Multiplication of two large square matrices, to measure the peak throughput of the machine."""

    def __init__(self, precision: str, device: torch.device):
        side = MATRIX_SIZE[device.type]
        generator = torch.Generator().manual_seed(0)
        self.device = device
        self.a, self.b = (
            torch.randn(side, side, generator=generator).to(device, DTYPES[precision]) for _ in range(2)
        )  # fmt: skip
        self.flops = 2 * side**3

    def gflops(self) -> float:
        """Run one multiplication and return its throughput in GFLOP/s; a multiply-add counts as 2 operations."""
        self._synchronize()
        start = time.perf_counter()
        torch.mm(self.a, self.b)
        self._synchronize()
        return self.flops / (time.perf_counter() - start) / 1e9

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
