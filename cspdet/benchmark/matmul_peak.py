"""What this machine can do at most: the rate of a large matrix product, against which networks are held."""

from __future__ import annotations

import time

import torch

MATRIX_SIZE = {"cpu": 3072, "cuda": 8192}  # large enough that the rate no longer grows
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class MatmulBenchmark:
    """A product of two square matrices, made once and timed in turn with the networks."""

    def __init__(self, precision: str, device: torch.device):
        side = MATRIX_SIZE[device.type]
        draw = torch.Generator().manual_seed(0)
        self.device = device
        self.a, self.b = (
            torch.randn(side, side, generator=draw).to(device, DTYPES[precision]) for _ in range(2)
        )  # fmt: skip
        self.flops = 2 * side**3

    def gflops(self) -> float:
        """10^9 operations a second of one product, 2 a multiply-add."""
        self._synchronize()
        start = time.perf_counter()
        torch.mm(self.a, self.b)
        self._synchronize()
        return self.flops / (time.perf_counter() - start) / 1e9

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
