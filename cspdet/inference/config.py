"""Options for running a model: engine, precision, device, input size, threads. This module does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from cspdet.config.user_modules import USER_NAME
from cspdet.errors import ConfigError, did_you_mean
from cspdet.inference.engines.registry import ENGINES

EnginePrecision = Literal["fp32", "bf16", "fp16", "int8"]

LABEL_FORMATS = ("coco", "yolo", "csv")  # of `detect --save-as`
H264_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow")  # presets of x264

AUTO = "auto"
BACKENDS: tuple[str, ...] = (AUTO, *ENGINES.names())
PRECISIONS: tuple[EnginePrecision, ...] = get_args(EnginePrecision)


@dataclass(frozen=True)
class EngineConfig:
    """Name and options of the engine that runs a model.

    Attributes:
        backend: Name of an engine, or a user-defined `module:Class`. `auto` selects the fastest installed engine whose
            outputs agree with torch, by a benchmark of a few seconds.
        precision: Precision of the convolutions: fp32, bf16, fp16 (CUDA), or int8 (files exported with int8).
        device: auto, cpu, cuda or cuda:N.
        size: Height and width of the input; None: the size in the model's config.
        threads: Number of CPU threads; None: the number that torch uses.
        cpu_kernels: Use the faster CPU kernels of `cspdet.inference.engines.cpu_kernels`.
    """

    backend: str = AUTO
    precision: str = "fp32"
    device: str = AUTO
    size: tuple[int, int] | None = None
    threads: int | None = None
    cpu_kernels: bool = True

    def check(self) -> EnginePrecision:
        """Check the options except `device` and `size`, and return the precision.

        Raises:
            ConfigError: Options are invalid; the message lists all problems.
        """
        problems = []
        if not USER_NAME.fullmatch(self.backend):
            problems += _unknown_name("--backend", self.backend, BACKENDS)
        problems += _unknown_name("--precision", self.precision, PRECISIONS)
        if self.threads is not None and self.threads < 1:
            problems.append(f"--threads: expected 1 or more, found {self.threads}")
        if problems:
            raise ConfigError(*problems)
        return next(known for known in PRECISIONS if known == self.precision)


def _unknown_name(flag: str, name: str, known: Sequence[str]) -> list[str]:
    if name in known:
        return []
    return [f"{flag}: unknown {name!r}{did_you_mean(name, known)}; expected one of {', '.join(known)}"]
