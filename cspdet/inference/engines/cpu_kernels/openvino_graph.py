"""Optimizations of an OpenVINO graph before it is compiled; they do not change the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import openvino

# From (B, A, 5 + C, H, W) to (B, A, H, W, 5 + C): the last operation of every raw output.
HEAD_PERMUTATION = (0, 1, 3, 4, 2)


def fold_constants(model: openvino.Model) -> None:
    """Replace operations on constants and on known shapes by constants, in place.

    An example is a bias that a dynamic ONNX graph computes from the image size.
    """
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def _split_anchors(transpose: Any, shape: Sequence[int]) -> Any:
    """Return nodes that compute the same raw output as `transpose`, but split the anchors while channels are last.

    Args:
        transpose: The last node of the raw output.
        shape: (B, A, 5 + C, H, W), shape of the input of `transpose`.
    """
    from openvino import opset8 as ops

    batch, anchors, values, height, width = shape
    maps = transpose.input_value(0).get_node().input_value(0)
    cells = ops.reshape(
        ops.transpose(maps, int64_constant(0, 2, 3, 1)), int64_constant(batch, height, width, anchors, values), False
    )
    result = ops.transpose(cells, int64_constant(0, 3, 1, 2, 4))
    result.set_friendly_name(transpose.get_friendly_name())
    return result


def split_channels_last(model: openvino.Model) -> int:
    """Rewrite raw outputs so that they are split into anchors in channels-last memory format, in place.

    Convolutions produce channels-last maps. The original graph, which splits them as (B, A, 5 + C, H, W), transposes
    them twice, value by value. The rewritten graph transposes once, and the values of a cell stay adjacent in memory.

    Returns:
        The number of rewritten outputs.
    """
    count = 0
    for transpose in model.get_ordered_ops():
        shape = _match_raw_output(transpose)
        if shape is None:
            continue
        transpose.output(0).replace(_split_anchors(transpose, shape).output(0))
        count += 1
    if count:
        model.validate_nodes_and_infer_types()
    return count


def _match_raw_output(transpose: Any) -> Sequence[int] | None:
    """Return (B, A, 5 + C, H, W) if the node is the last one of a raw output of known size. If not, return None."""
    if transpose.get_type_name() != "Transpose" or not transpose.input_value(0).get_partial_shape().is_static:
        return None
    order, split = constant_value(transpose.input_value(1)), transpose.input_value(0).get_node()
    if order is None or tuple(order) != HEAD_PERMUTATION or split.get_type_name() != "Reshape":
        return None
    maps = split.input_value(0).get_partial_shape()
    shape = list(transpose.input_value(0).get_shape())
    if not maps.is_static or len(maps) != 4:
        return None
    channels_cut = [shape[0], shape[1] * shape[2], *shape[3:]]
    return shape if channels_cut == list(maps.to_shape()) else None


def constant_value(output: Any) -> np.ndarray | None:
    """Return the value of a constant, even if it is stored in lower precision; return None for other outputs."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return np.asarray(node.data) if node.get_type_name() == "Constant" else None


def int64_constant(*values: int) -> Any:
    """Create an int64 constant."""
    from openvino import opset8 as ops

    return ops.constant(np.array(values, np.int64))


def sole_consumer(node: Any, op_type: str) -> Any | None:
    """Return the only consumer of a node's output.

    If there are several consumers, or it does not have the type `op_type`, or the output is not its first input, return
    None.
    """
    readers = list(node.output(0).get_target_inputs())
    if len(readers) != 1 or readers[0].get_node().get_type_name() != op_type:
        return None
    return readers[0].get_node() if readers[0].get_index() == 0 else None
