"""What engines are built from: a network with its metadata, and the options of the run."""

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
    """Where and how an engine computes.

    Attributes:
        device: The device of the network.
        precision: Precision of the convolutions.
        threads: Number of CPU threads; None: as many as torch uses.
        cpu_kernels: Use the faster CPU code of `cspdet.inference.engines.cpu_kernels`.
    """

    device: torch.device = CPU
    precision: EnginePrecision = "fp32"
    threads: int | None = None
    cpu_kernels: bool = True


class NetworkSource:
    """A network that engines are built from; it is converted to ONNX once.

    Attributes:
        network: In evaluation mode on the CPU.
        metadata: Its classes, input and head.
    """

    def __init__(self, network: nn.Module, metadata: ModelMetadata):
        self.network, self.metadata = network, metadata

    @cached_property
    def onnx_bytes(self) -> bytes:
        """The network as an ONNX model with free batch and size.

        Raises:
            UserError: An operation of the network has no ONNX equivalent.
        """
        metadata = self.metadata
        network = (fuse_conv_bn(self.network) or self.network).to("cpu")
        names = output_names(metadata.outputs, metadata.strides)
        return to_onnx(network, metadata.size_hw, names, size_divisor=max(metadata.strides), dynamic=True)
