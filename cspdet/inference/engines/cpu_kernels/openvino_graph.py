"""Optimizations of an OpenVINO graph before it is compiled; they do not change the outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import openvino


def fold_constants(model: openvino.Model) -> None:
    """Replace operations on constants and on known shapes by constants, in place.

    An example is a bias that a dynamic ONNX graph computes from the image size.
    """
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def constant_value(output: Any) -> np.ndarray | None:
    """Return the value of a constant, even if it is stored in lower precision; None if `output` is not a constant."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return np.asarray(node.data) if node.get_type_name() == "Constant" else None


def int64_constant(*values: int) -> Any:
    """Create an int64 constant."""
    from openvino import opset8 as ops

    return ops.constant(np.array(values, np.int64))


def sole_consumer(node: Any, op_type: str) -> Any | None:
    """Return the only consumer of a node's output, if its type is `op_type` and the output is its first input.

    In all other cases, return None.
    """
    readers = list(node.output(0).get_target_inputs())
    if len(readers) != 1 or readers[0].get_node().get_type_name() != op_type:
        return None
    return readers[0].get_node() if readers[0].get_index() == 0 else None
