"""OpenVINO's .xml with its .bin, the facts in the runtime information."""

from __future__ import annotations

from pathlib import Path

import torch

from cspdet.checkpoints.loading import LoadedClassifier, LoadedModel
from cspdet.darknet.write.graph import Wanted, facts_for, network_for
from cspdet.errors import ConfigError
from cspdet.export.onnx import build_onnx
from cspdet.export.verify import check, check_inputs
from cspdet.inference.engines.exported import load_exported
from cspdet.inference.engines.onnx_export import output_names, to_onnx
from cspdet.inference.engines.openvino_engine import import_openvino, read_model, write_openvino_facts
from cspdet.inference.metadata import Facts
from cspdet.io.atomic import temporary


def write_openvino(loaded: LoadedModel | LoadedClassifier, wanted: Wanted, target: Path) -> float:
    """Write `target`, an .xml, and its .bin; returns the largest difference from the network, as `write_onnx` does.

    With fp16 the weights are stored in half the space; the precision of the computation is chosen where it runs.

    Raises:
        UserError: a package is missing, the network cannot be written so, or the files differ; nothing is left then.
    """
    openvino = import_openvino()
    facts = facts_for(loaded, wanted)
    inputs = check_inputs(loaded, facts, wanted.calibration)
    model = read_model(_graph(loaded, wanted, facts))
    write_openvino_facts(model, facts)
    # The inner block ends first: a reader of the .xml finds the weights in place.
    with temporary(target) as draft, temporary(target.with_suffix(".bin")):
        openvino.save_model(model, str(draft), compress_to_fp16=wanted.precision == "fp16")
        engine = load_exported(draft, "openvino", precision="fp32", device=torch.device("cpu"))
        return check(engine, loaded, inputs, str(target))


def _graph(loaded: LoadedModel | LoadedClassifier, wanted: Wanted, facts: Facts) -> bytes:
    """ONNX in memory; the package onnx is only needed for more than the plain network."""
    if wanted.precision == "int8" or facts.nms is not None:
        if wanted.precision == "fp16":
            raise ConfigError("--precision fp16: 10 bits are too few for pixels; use it without --nms")
        return build_onnx(loaded, wanted, facts).SerializeToString()
    names = output_names(facts.outputs, facts.strides)
    return to_onnx(
        network_for(loaded, facts.outputs), facts.size_hw, names, step=max(facts.strides), dynamic=facts.dynamic,
        opset=wanted.opset,
    )  # fmt: skip
