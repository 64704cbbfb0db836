"""Darknet's .weights files: a header, then the values of all layers in order, without names or shapes.

    header  3 int32 (major, minor, revision), then the number of training images: uint64 since version 0.2, or uint32
    values  float32. Convolution: bias (or beta), with normalization also gamma, mean, variance; then weights.
            Connected layer: bias (or beta), weights, with normalization also gamma, mean, variance.

All values are little-endian. A file of another network is recognized only if the number of values does not fit, a
value is not finite, or a variance is negative.
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

from cspdet.errors import CheckpointError, did_you_mean
from cspdet.io.atomic import atomic_write
from cspdet.io.text import open_file

MAX_VERSION = 10_000  # limit for each of major, minor and revision
TRANSPOSED_VERSION = 1000  # connected layers are stored transposed if major or minor is above this


class WeightsHeader(NamedTuple):
    """Header of a .weights file; the defaults are the values of current Darknet versions."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    images_seen: int = 0  # number of training images

    @property
    def transposed(self) -> bool:
        """True if connected layers are stored transposed."""
        return self.major > TRANSPOSED_VERSION or self.minor > TRANSPOSED_VERSION


@dataclass(frozen=True)
class LayerWeights:
    """The named tensors of one layer, in the order of the file. The names are used in messages."""

    name: str
    named_tensors: tuple[tuple[str, Tensor], ...]

    @property
    def num_elements(self) -> int:
        """Number of values of the layer in the file."""
        return sum(tensor.numel() for _, tensor in self.named_tensors)


class LoadResult(NamedTuple):
    """Result of `read_weights`.

    Attributes:
        header: Header of the file.
        num_loaded: Number of loaded layers: all, or the first layers of a partial file.
        num_layers: Number of layers with weights in the network.
        num_values: Number of values in the file.
    """

    header: WeightsHeader
    num_loaded: int
    num_layers: int
    num_values: int


def conv_weights(name: str, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, *, scales: bool = True) -> LayerWeights:
    """Return the tensors of a convolution in file order.

    Args:
        name: Name of the layer for messages.
        conv: The convolution.
        norm: The normalization after the convolution; None: no normalization.
        scales: Whether the file contains gamma, mean and variance of the normalization.
    """
    return LayerWeights(name, (*_bias(conv, norm), *(_scales(norm) if scales else ()), ("weights", conv.weight)))


def connected_weights(
    name: str, linear: nn.Linear, norm: nn.BatchNorm2d | None, *, scales: bool = True
) -> LayerWeights:
    """Return the tensors of a connected layer in file order; for the arguments, see `conv_weights`."""
    return LayerWeights(
        name, (*_bias(linear, norm), ("connections", linear.weight), *(_scales(norm) if scales else ()))
    )


def read_weights(path: str | Path, layers: Sequence[LayerWeights], *, partial: bool = False) -> LoadResult:
    """Load the values of a .weights file into the layers of a network.

    Args:
        path: The file.
        layers: The layers of the network in file order; their tensors are changed in place.
        partial: Accept a file that ends after one of the layers; the remaining layers are not changed.

    Raises:
        CheckpointError: The file is missing, corrupt or of another network; the message names the affected layer.
    """
    path = Path(path)
    try:
        with open_file(path) as file:
            return _load_layers(file, path, layers, partial=partial)
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise CheckpointError(f"{path}: no such file{did_you_mean(path.name, siblings)}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: not readable: {error.strerror or error}") from None


def _load_layers(file: BinaryIO, path: Path, layers: Sequence[LayerWeights], *, partial: bool) -> LoadResult:
    header, offset = _read_header(file, path)
    num_values, rest = divmod(path.stat().st_size - offset, 4)
    if rest:
        raise CheckpointError(f"{path}: ends within a value; the file is truncated, or not a .weights file")
    num_layers = _num_layers_in_file(path, layers, num_values, partial=partial)
    for layer in layers[:num_layers]:
        _load_layer(file, layer, path, transposed=header.transposed)
    return LoadResult(header, num_layers, len(layers), num_values)


def write_weights(path: str | Path, layers: Sequence[LayerWeights], header: WeightsHeader | None = None) -> None:
    """Write layers to a .weights file in the given order.

    Raises:
        UserError: The file cannot be written; an existing file is kept.
    """
    with atomic_write(path) as tmp_path, tmp_path.open("wb") as file:
        file.write(struct.pack("<iiiQ", *(header or WeightsHeader())))
        for layer in layers:
            for _, tensor in layer.named_tensors:
                file.write(tensor.detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())


class SkipInit(TorchFunctionMode):
    """Context manager that skips the random initialization of new layers; load all their weights afterwards."""

    INIT_FUNCTIONS = (Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_,
             nn.init.kaiming_normal_)  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.INIT_FUNCTIONS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _bias(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None) -> tuple[tuple[str, Tensor], ...]:
    bias = layer.bias if norm is None else norm.bias
    if bias is None or (norm is not None and layer.bias is not None):
        raise ValueError("a Darknet layer has either a bias or a normalization, not both")
    return (("bias", bias),)


def _scales(norm: nn.BatchNorm2d | None) -> tuple[tuple[str, Tensor], ...]:
    if norm is None:
        return ()
    assert norm.running_mean is not None and norm.running_var is not None
    return (("scales", norm.weight), ("means", norm.running_mean), ("variances", norm.running_var))


def _read_header(file: BinaryIO, path: Path) -> tuple[WeightsHeader, int]:
    """Read the header; return it and its size in bytes."""
    start = file.read(12)
    version = struct.unpack("<iii", start) if len(start) == 12 else ()
    seen_format = "<Q" if version and 10 * version[0] + version[1] >= 2 else "<I"
    rest = file.read(struct.calcsize(seen_format))
    if not version or len(rest) < struct.calcsize(seen_format):
        raise CheckpointError(f"{path}: not a .weights file: it is shorter than the header")
    if not all(0 <= version_part <= MAX_VERSION for version_part in version):
        raise CheckpointError(f"{path}: not a .weights file: found version {version}, expected one like (0, 2, 5)")
    (images_seen,) = struct.unpack(seen_format, rest)
    return WeightsHeader(version[0], version[1], version[2], images_seen), 12 + len(rest)


def _num_layers_in_file(path: Path, layers: Sequence[LayerWeights], num_values: int, *, partial: bool) -> int:
    """Return the number of layers in the file. It is less than `len(layers)` only if `partial` is set.

    Raises:
        CheckpointError: The number of values in the file does not fit the layers.
    """
    num_expected = sum(layer.num_elements for layer in layers)
    if num_values == num_expected:
        return len(layers)
    heading = f"{path}: has {num_values:,} values, but the network needs {num_expected:,}"
    if num_values > num_expected:
        last = f"{layers[-1].name}, the last layer" if layers else "a network without weights"
        raise CheckpointError(f"{heading}: {num_values - num_expected:,} are left over after {last}")
    i, left = 0, num_values
    while left >= layers[i].num_elements:
        left -= layers[i].num_elements
        i += 1
    at = f"it ends {'before' if left == 0 else 'within'} {layers[i].name}"
    if left:
        at += f", after {left:,} of its {layers[i].num_elements:,}"
    if left or i == 0:
        raise CheckpointError(f"{heading}: {at}")
    if not partial:
        raise CheckpointError(f"{heading}: {at}; --partial loads its {i} layers, as initial weights for training")
    return i


def _load_layer(file: BinaryIO, layer: LayerWeights, path: Path, *, transposed: bool) -> None:
    for tensor_name, tensor in layer.named_tensors:
        values = np.fromfile(file, dtype="<f4", count=tensor.numel())
        if len(values) < tensor.numel():
            raise CheckpointError(f"{path}: the file became shorter during reading")
        reason = None if np.isfinite(values).all() else "are not all finite"
        if tensor_name == "variances" and not reason and values.min() < 0:
            reason = "are negative"
        if reason:
            why = "the file is of another network, or corrupt"
            raise CheckpointError(f"{path}: {layer.name}: its {tensor_name} {reason}: {why}")
        shape = tuple(tensor.shape)
        if tensor_name == "connections" and transposed:
            values, shape = values.reshape(shape[::-1]).T, shape
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).view(shape))
