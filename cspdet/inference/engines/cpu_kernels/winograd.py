"""Winograd convolution for the dense 3x3 layers of an OpenVINO graph, with half of the multiplications.

This module applies F(4, 3) of Lavin and Gray (arXiv 1509.09308, section 4.1) along the height; the width is convolved
directly. Four output rows depend on six input rows. Direct convolution needs 12 products (4 output rows x 3 filter
rows). Winograd convolution transforms the six input rows into six other rows, multiplies each of them once, and
transforms the six products into four output rows. Applied along both axes, it would need a quarter of the
multiplications, but the transforms would take as much time as it would save. In fp32 an output changes by about 1e-6 of
the largest output.

oneDNN, which OpenVINO uses on x86, has no Winograd kernel for floats.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from cspdet.inference.engines.cpu_kernels.openvino_graph import constant_value, int64_constant, sole_consumer

if TYPE_CHECKING:
    import openvino

OUTPUT_ROWS = 4  # output rows that are computed together
# Points 0, 1, -1, 2, -2 and infinity: y = OUTPUT ((FILTER g) * (INPUT d)) for 6 inputs d and 3 weights g.
INPUT_TRANSFORM = np.array(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
     [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]], dtype=np.float32,
)  # fmt: skip
FILTER_TRANSFORM = np.array(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
     [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
)  # fmt: skip
OUTPUT_TRANSFORM = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
NUM_PRODUCTS = len(INPUT_TRANSFORM)

MAX_TIME_RATIO = 0.85  # layers with a higher `estimated_time_ratio` are not rewritten


def estimated_time_ratio(channels: tuple[int, int], size_hw: tuple[int, int]) -> float:
    """Estimate the time of a 3x3 layer with Winograd's algorithm, divided by its time with direct convolution.

    The estimate is the sum of three parts. The multiplications are half as many, or more if the height is not a
    multiple of four. The transforms have a constant cost per channel. Twice as many weights are loaded, which matters
    for small maps. The speed report in docs/ lists measured times.

    Args:
        channels: Number of input channels and of output channels.
        size_hw: Height and width of the output.
    """
    height, width = size_hw
    strips = -(-height // OUTPUT_ROWS)
    multiplications = NUM_PRODUCTS * strips / (3 * height)
    transforms = 10 * sum(channels) / (channels[0] * channels[1])
    weights = 10 / (strips * width)
    return multiplications + transforms + weights


def use_winograd(model: openvino.Model, max_time_ratio: float = MAX_TIME_RATIO) -> int:
    """Replace, in place, the 3x3 convolutions that are faster as Winograd convolutions; return their number."""
    if platform.machine().lower() not in ("x86_64", "amd64"):  # on Arm, OpenVINO has Winograd kernels
        return 0
    layers = [_ConvSpec.from_node(node, max_time_ratio) for node in model.get_ordered_ops()]
    suitable = [layer for layer in layers if layer is not None]
    for layer in suitable:
        layer.rewrite()
    if suitable:
        model.validate_nodes_and_infer_types()
    return len(suitable)


class _ConvSpec:
    """A 3x3 convolution of a graph, together with the bias and the activation after it."""

    def __init__(self, convolution: Any, weight: np.ndarray):
        self.convolution = convolution
        self.weight = weight
        self.output_node, self.bias, self.activation = convolution, None, None
        add = sole_consumer(self.output_node, "Add")
        if add is not None and _is_bias(add.input_value(1), len(weight)):
            self.output_node, self.bias = add, add.input_value(1)
        activation = sole_consumer(self.output_node, "PRelu") or sole_consumer(self.output_node, "Relu")
        if activation is not None:
            self.output_node = self.activation = activation

    @classmethod
    def from_node(cls, node: Any, max_time_ratio: float) -> _ConvSpec | None:
        """Return the layer that begins with `node`, or None if the node is not suitable or would not become faster."""
        if node.get_type_name() != "Convolution" or not node.input_value(0).get_partial_shape().is_static:
            return None
        weight = constant_value(node.input_value(1))
        attributes = node.get_attributes()
        plain = {"strides": [1, 1], "dilations": [1, 1], "pads_begin": [1, 1], "pads_end": [1, 1]}
        if weight is None or weight.shape[2:] != (3, 3) or any(list(attributes[key]) != plain[key] for key in plain):
            return None
        height, width = list(node.output(0).shape)[2:]
        if estimated_time_ratio((weight.shape[1], weight.shape[0]), (height, width)) > max_time_ratio:
            return None
        return cls(node, weight)

    def rewrite(self) -> None:
        """Replace the layer in the graph by a Winograd convolution."""
        from openvino import opset8 as ops

        image = self.convolution.input_value(0)  # read now: the preceding layer may have been rewritten
        height, width = list(image.shape)[2:]
        out_channels = len(self.weight)
        strips = -(-height // OUTPUT_ROWS)
        products = self._multiply(ops, image, below=1 + OUTPUT_ROWS * strips - height)
        rows_of_strips = [self._apply_activation(ops, row) for row in _transform_output(ops, products)]
        # With channels last in memory, concatenating the rows of the strips produces the map without a copy.
        side_by_side = ops.transpose(ops.concat(rows_of_strips, 3), int64_constant(0, 2, 3, 1))
        shape = int64_constant(*image.shape[:1], OUTPUT_ROWS * strips, width, out_channels)
        whole = ops.reshape(side_by_side, shape, False)
        if OUTPUT_ROWS * strips != height:
            one = int64_constant(1)
            whole = ops.slice(whole, int64_constant(0), int64_constant(height), one, one)
        result = ops.transpose(whole, int64_constant(0, 3, 1, 2))
        result.set_friendly_name(self.output_node.get_friendly_name())
        self.output_node.output(0).replace(result.output(0))

    def _multiply(self, ops: Any, image: Any, *, below: int) -> list[Any]:
        """Return the six products: for each transformed input row, its 1x3 convolution with a transformed filter row.

        `below` is the number of rows of zero padding below the image.
        """
        transformed = np.einsum("kr,oirs->kois", FILTER_TRANSFORM, self.weight.astype(np.float64)).astype(np.float32)
        products = []
        for rows, weight in zip(INPUT_TRANSFORM, transformed, strict=True):
            strip = _transform_input(ops, image, rows, below=below)
            product = ops.convolution(strip, ops.constant(weight[:, :, None]), [1, 1], [0, 1], [0, 1], [1, 1])
            products.append(product)
        if self.bias is not None:
            products[1] = ops.add(products[1], self.bias)  # each output row contains this product once
        return products

    def _apply_activation(self, ops: Any, row: Any) -> Any:
        if self.activation is None:
            return row
        if self.activation.get_type_name() == "PRelu":
            return ops.prelu(row, self.activation.input_value(1))
        return ops.relu(row)


def _transform_input(ops: Any, image: Any, factors: np.ndarray, below: int) -> Any:
    """Compute one linear combination of the six input rows of each strip of a (1, C, H, W) map.

    The six rows of a strip are its four rows, one row above and one row below.

    Args:
        ops: Module with OpenVINO's operations.
        image: The map.
        factors: (6,) factors of the rows.
        below: Number of rows of zero padding below the map.

    Returns:
        (1, C, strips, W).
    """
    channels = image.shape[1]
    kernel = np.ascontiguousarray(np.broadcast_to(factors.reshape(1, 1, 1, -1, 1), (channels, 1, 1, NUM_PRODUCTS, 1)))
    return ops.group_convolution(image, ops.constant(kernel), [OUTPUT_ROWS, 1], [1, 0], [below, 0], [1, 1])


def _transform_output(ops: Any, products: list[Any]) -> list[Any]:
    """Multiply OUTPUT_TRANSFORM by the six products; return the four output rows of each strip."""

    def times(factor: float, value: Any) -> Any:
        return ops.multiply(value, ops.constant(np.float32(factor)))

    first, plus_one, minus_one, plus_two, minus_two, last = products
    ones, ones_apart = ops.add(plus_one, minus_one), ops.subtract(plus_one, minus_one)
    twos, twos_apart = ops.add(plus_two, minus_two), ops.subtract(plus_two, minus_two)
    return [
        ops.add(ops.add(first, ones), twos),
        ops.add(ones_apart, times(2, twos_apart)),
        ops.add(ones, times(4, twos)),
        ops.add(ops.add(ones_apart, times(8, twos_apart)), last),
    ]


def _is_bias(output: Any, channels: int) -> bool:
    values = constant_value(output)
    return values is not None and values.shape == (1, channels, 1, 1)
