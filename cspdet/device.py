"""Device selection and numeric precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from cspdet.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]


def select_device(name: str | int) -> torch.device:
    """Return the device `name`: cpu, cuda, cuda:N, N (cuda:N), or auto (CUDA if available, else the CPU).

    Raises:
        ConfigError: The name is not a device, or the CUDA device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"cuda:{name}" if str(name).isdecimal() else str(name)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device: expected auto, cpu, cuda or cuda:N, found {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device: expected auto, cpu, cuda or cuda:N, found {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(f"--device: {name} does not exist; torch {torch.__version__} finds {count} CUDA devices")
    return device


def resolve_precision(requested: str, device: torch.device) -> Precision:
    """Return the requested precision; for `auto`, return the fastest precision that the device supports.

    `auto` selects bf16 if the device has bf16 instructions. If not, it selects fp16 on CUDA and fp32 on a CPU.

    Raises:
        ConfigError: fp16 is requested on a CPU.
    """
    if requested != "auto":
        if requested == "fp16" and device.type == "cpu":
            raise ConfigError("train.precision: fp16 needs a CUDA device; use bf16 or fp32 on a CPU")
        return requested  # type: ignore[return-value]
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    return "bf16" if cpu_has_native_bf16() else "fp32"


def cpu_has_native_bf16() -> bool:
    """Return whether this CPU has bf16 instructions (AMX tiles or AVX512_BF16). With them, bf16 is faster than fp32."""
    asks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(ask() for ask in asks if ask is not None)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the autocast context for a forward pass in `precision`; for fp32, return an empty context."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def to_float_tensor(images: Tensor, device: torch.device) -> Tensor:
    """Move (B, 3, H, W) uint8 images to `device` as float32 in [0, 1], in channels-last memory format."""
    moved = images.to(device, non_blocking=True)
    return moved.to(torch.float32, memory_format=torch.channels_last).div_(255)
