"""One TorchScript file, for LibTorch and for Python without cspdet; the facts are its extra files."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from cspdet.checkpoints.loading import LoadedClassifier, LoadedModel
from cspdet.darknet.write.graph import Wanted, facts_for, network_for
from cspdet.errors import ConfigError, UserError
from cspdet.export.verify import check, check_inputs
from cspdet.inference.engines.exported import load_exported
from cspdet.io.atomic import temporary


def write_torchscript(loaded: LoadedModel | LoadedClassifier, wanted: Wanted, target: Path) -> float:
    """Write `target`; returns the largest difference from the network, as `write_onnx` does.

    Raises:
        UserError: the network cannot be traced, or the file differs; nothing is left then.
    """
    if wanted.precision != "fp32" or wanted.nms is not None:
        raise ConfigError("--format torchscript: expected --precision fp32 and no --nms; --format onnx has both")
    facts = facts_for(loaded, wanted)
    inputs = check_inputs(loaded, facts)
    network = network_for(loaded, facts.outputs)
    images = torch.rand(2 if facts.dynamic else 1, 3, *facts.size_hw, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is in maintenance, and says so
        try:
            script = torch.jit.trace(network, images, check_trace=False)
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"the network cannot be written as TorchScript: {reason}") from None
        with temporary(target) as draft:
            torch.jit.save(script, str(draft), _extra_files=facts.to_strings())
            engine = load_exported(draft, "torch", precision="fp32", device=torch.device("cpu"))
            return check(engine, loaded, inputs, str(target))
