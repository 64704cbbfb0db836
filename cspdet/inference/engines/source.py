"""Inputs for creating an engine: a network with its metadata, and the engine options."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from cspdet.inference.config import EnginePrecision
from cspdet.inference.engines.onnx_export import output_names, to_onnx
from cspdet.inference.metadata import ModelMetadata
from cspdet.models.fuse import fuse_conv_bn

CPU = torch.device("cpu")


@dataclass(frozen=True)
class EngineOptions:
    """Device, precision and CPU options of an engine.

    Attributes:
        device: Device of the network.
        precision: Precision of the convolutions.
        threads: Number of CPU threads; None: the number that torch uses.
        cpu_kernels: Use the faster CPU kernels of `cspdet.inference.engines.cpu_kernels`.
    """

    device: torch.device = CPU
    precision: EnginePrecision = "fp32"
    threads: int | None = None
    cpu_kernels: bool = True


class NetworkSource:
    """A network for which engines are created; all engines share one conversion to ONNX.

    Attributes:
        network: The network, in evaluation mode on the CPU.
        metadata: Classes, input and head of the network.
    """

    def __init__(self, network: nn.Module, metadata: ModelMetadata):
        self.network, self.metadata = network, metadata

    @cached_property
    def onnx_bytes(self) -> bytes:
        """The network as a serialized ONNX model with dynamic batch size, height and width.

        Raises:
            UserError: An operation of the network has no ONNX equivalent.
        """
        metadata = self.metadata
        network = (fuse_conv_bn(self.network) or self.network).to("cpu")
        names = output_names(metadata.outputs, metadata.strides)
        return to_onnx(network, metadata.size_hw, names, size_divisor=max(metadata.strides), dynamic=True)
