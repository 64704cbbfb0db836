"""Export to TorchScript, for LibTorch and for Python without cspdet; extra files in the archive hold the metadata."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from cspdet.errors import UserError
from cspdet.exporters.base import ExportConfig
from cspdet.exporters.graph import GraphFormat, export_module
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.exported import load_exported
from cspdet.inference.engines.source import EngineOptions
from cspdet.inference.metadata import ModelMetadata
from cspdet.models.bundle import ModelBundle


class TorchScriptFormat(GraphFormat):
    """Export format of TorchScript: an archive with the traced network in fp32, without NMS."""

    suffixes = (".torchscript", ".ts")
    options = frozenset({"outputs", "dynamic"})

    def write(self, bundle: ModelBundle, config: ExportConfig, metadata: ModelMetadata, path: Path) -> None:
        """Trace the network and write the archive; see `GraphFormat.write`."""
        network = export_module(bundle, metadata.outputs)
        batch = 2 if metadata.dynamic else 1
        images = torch.rand(batch, 3, *metadata.size_hw, generator=torch.Generator().manual_seed(0))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # TorchScript is in maintenance mode and warns about it
            try:
                script = torch.jit.trace(network, images, check_trace=False)
            except RuntimeError as error:
                reason = str(error).splitlines()[0][:200]
                raise UserError(f"the network cannot be written as TorchScript: {reason}") from None
            with path.open("wb") as file:  # torch takes only paths in UTF-8
                torch.jit.save(script, file, _extra_files=metadata.to_strings())

    def load(self, path: Path, metadata: ModelMetadata) -> Engine:
        """Load the archive into an engine of torch."""
        return load_exported(path, "torch", EngineOptions())
