"""One TorchScript file, for LibTorch and for Python without cspdet; the facts are its extra files."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from cspdet.darknet.write.graph import ExportConfig, export_metadata, export_module
from cspdet.errors import ConfigError, UserError
from cspdet.export.verify import verification_inputs, verify_export
from cspdet.inference.engines.exported import load_exported
from cspdet.io.atomic import atomic_write
from cspdet.models.bundle import ModelBundle


def write_torchscript(bundle: ModelBundle, config: ExportConfig, target: Path) -> float:
    """Write `target`; returns the largest difference from the network, as `write_onnx` does.

    Raises:
        UserError: the network cannot be traced, or the file differs; nothing is left then.
    """
    if config.precision != "fp32" or config.nms is not None:
        raise ConfigError("--format torchscript: expected --precision fp32 and no --nms; --format onnx has both")
    metadata = export_metadata(bundle, config)
    inputs = verification_inputs(bundle, metadata)
    network = export_module(bundle, metadata.outputs)
    images = torch.rand(2 if metadata.dynamic else 1, 3, *metadata.size_hw, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is in maintenance, and says so
        try:
            script = torch.jit.trace(network, images, check_trace=False)
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"the network cannot be written as TorchScript: {reason}") from None
        with atomic_write(target) as tmp_path:
            torch.jit.save(script, str(tmp_path), _extra_files=metadata.to_strings())
            engine = load_exported(tmp_path, "torch", precision="fp32", device=torch.device("cpu"))
            return verify_export(engine, bundle, inputs, str(target))
