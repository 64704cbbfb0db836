"""Darknet's .weights files: a header, then the numbers of one layer after the other, and nothing that says whose.

    header   3 int32 (major, minor, revision), then the pictures seen in training: uint64 from 0.2 on, before it uint32
    numbers  float32; a convolution's are bias or beta, then with normalization gamma, mean, variance, then its weights;
             a connected layer's the same, but its weights stand behind the bias

Little-endian, as every machine that Darknet runs on. Since the file has no marks, every number is counted, and what
would make a network useless is told where it stands: it is how files of another network show themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cspdet.errors import CheckpointError, nearest
from cspdet.io.atomic import temporary

HIGHEST_VERSION = 10_000  # of each of the header's three numbers
TRANSPOSED = 1000  # above it, a version number says that connected layers are stored the other way round


class Header(NamedTuple):
    """What a file says about itself. The default is what today's Darknet writes."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0  # pictures in training

    @property
    def transposed(self) -> bool:
        return self.major > TRANSPOSED or self.minor > TRANSPOSED


@dataclass(frozen=True)
class Numbers:
    """The tensors of one layer in the file's order, each with what it is."""

    name: str
    parts: tuple[tuple[str, Tensor], ...]

    @property
    def count(self) -> int:
        return sum(tensor.numel() for _, tensor in self.parts)


class Filled(NamedTuple):
    """What a file gave: of `layers` layers the first `filled`."""

    header: Header
    filled: int
    layers: int
    numbers: int


def conv_numbers(name: str, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, *, scales: bool = True) -> Numbers:
    """Those of a convolution; without `scales`, its gamma, mean and variance are not in the file."""
    return Numbers(name, (*_bias(conv, norm), *(_scales(norm) if scales else ()), ("weights", conv.weight)))


def connected_numbers(name: str, linear: nn.Linear, norm: nn.BatchNorm2d | None, *, scales: bool = True) -> Numbers:
    """Those of a connected layer."""
    return Numbers(name, (*_bias(linear, norm), ("connections", linear.weight), *(_scales(norm) if scales else ())))


def read_weights(path: str | Path, layers: Sequence[Numbers], *, partial: bool = False) -> Filled:
    """Fill the layers in order from a .weights file that holds exactly their numbers.

    With `partial`, a file that ends behind one of the layers fills those before, and leaves the others as they are.

    Raises:
        CheckpointError: missing, damaged or another network's: how many numbers were needed and found, where they part.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            header, offset = _read_header(file, path)
            found, rest = divmod(path.stat().st_size - offset, 4)
            if rest:
                raise CheckpointError(f"{path}: ends within a number; the file is cut off or no .weights file")
            count = _layers_that_fit(path, layers, found, partial=partial)
            for layer in layers[:count]:
                _fill(file, layer, path, transposed=header.transposed)
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise CheckpointError(f"{path}: no such file{nearest(path.name, siblings)}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: not readable: {error.strerror or error}") from None
    return Filled(header, count, len(layers), found)


def write_weights(path: str | Path, layers: Sequence[Numbers], header: Header = Header()) -> None:  # noqa: B008
    """Write the layers' numbers as today's Darknet does.

    Raises:
        UserError: the file cannot be written; the previous one is kept.
    """
    with temporary(path) as draft, draft.open("wb") as file:
        file.write(struct.pack("<iiiQ", *header))
        for layer in layers:
            for _, tensor in layer.parts:
                file.write(tensor.detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())


class FreshWeightsUndrawn(TorchFunctionMode):
    """Inside, new layers draw no random weights: for networks that a file fills completely."""

    DRAWS = (Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_,
             nn.init.kaiming_normal_)  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _bias(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None) -> tuple[tuple[str, Tensor], ...]:
    bias = layer.bias if norm is None else norm.bias
    if bias is None or (norm is not None and layer.bias is not None):
        raise ValueError("Darknet's layers have a bias or a normalization, and not both")
    return (("bias", bias),)


def _scales(norm: nn.BatchNorm2d | None) -> tuple[tuple[str, Tensor], ...]:
    if norm is None:
        return ()
    assert norm.running_mean is not None and norm.running_var is not None
    return (("scales", norm.weight), ("means", norm.running_mean), ("variances", norm.running_var))


def _read_header(file: BinaryIO, path: Path) -> tuple[Header, int]:
    """The header, and how many bytes it takes."""
    start = file.read(12)
    version = struct.unpack("<iii", start) if len(start) == 12 else ()
    form = "<Q" if version and 10 * version[0] + version[1] >= 2 else "<I"
    rest = file.read(struct.calcsize(form))
    if not version or len(rest) < struct.calcsize(form):
        raise CheckpointError(f"{path}: is no .weights file: it is shorter than the header")
    if not all(0 <= number <= HIGHEST_VERSION for number in version):
        raise CheckpointError(
            f"{path}: is no .weights file: it says to be of version {version}, expected like (0, 2, 5)"
        )
    (seen,) = struct.unpack(form, rest)
    return Header(version[0], version[1], version[2], seen), 12 + len(rest)


def _layers_that_fit(path: Path, layers: Sequence[Numbers], found: int, *, partial: bool) -> int:
    """How many layers the file fills: all, or for a partial file the first ones."""
    needed = sum(layer.count for layer in layers)
    if found == needed:
        return len(layers)
    heading = f"{path}: holds {found:,} numbers, but the network needs {needed:,}"
    if found > needed:
        last = f"{layers[-1].name}, the last" if layers else "a network without weights"
        raise CheckpointError(f"{heading}: {found - needed:,} are left over behind {last}")
    i, left = 0, found
    while left >= layers[i].count:
        left -= layers[i].count
        i += 1
    at = f"it ends {'before' if left == 0 else 'within'} {layers[i].name}"
    if left:
        at += f", after {left:,} of its {layers[i].count:,}"
    if left or i == 0:
        raise CheckpointError(f"{heading}: {at}")
    if not partial:
        raise CheckpointError(f"{heading}: {at}; --partial takes the {i} layers that it has, as a start for training")
    return i


def _fill(file: BinaryIO, layer: Numbers, path: Path, *, transposed: bool) -> None:
    for what, tensor in layer.parts:
        values = np.fromfile(file, dtype="<f4", count=tensor.numel())
        if len(values) < tensor.numel():
            raise CheckpointError(f"{path}: became shorter while it was read")
        problem = None if np.isfinite(values).all() else "are not all finite"
        if what == "variances" and not problem and values.min() < 0:
            problem = "are below 0"
        if problem:
            why = "the file is another network's, or damaged"
            raise CheckpointError(f"{path}: {layer.name}: its {what} {problem}: {why}")
        shape = tuple(tensor.shape)
        if what == "connections" and transposed:
            values, shape = values.reshape(shape[::-1]).T, shape
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).view(shape))
