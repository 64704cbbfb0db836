"""Cost of a network for one image: number of weights, BFLOPs and memory access, counted as in the papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cspdet.models.blocks import Maxout

PROFILED_MODULES = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, Maxout)


@dataclass(frozen=True)
class LayerCost:
    """One convolution, linear layer or pooling at a given input size.

    `layer_type` is conv, linear, pool or average (global average pooling).
    """

    name: str
    layer_type: str
    input_chw: tuple[int, ...]
    output_chw: tuple[int, ...]
    weights: int
    operations: int  # 2 per multiply-add; for pooling: window size times number of outputs

    @property
    def elements_read(self) -> int:
        """Number of input values."""
        return _product(self.input_chw)

    @property
    def elements_written(self) -> int:
        """Number of output values."""
        return _product(self.output_chw)

    @property
    def memory_access(self) -> int:
        """Number of input and output values, without the weights."""
        return self.elements_read + self.elements_written

    @property
    def part(self) -> str:
        """The top-level module that contains the layer: `backbone`, `neck`, `head`, or `fc` in a classifier."""
        return self.name.split(".")[0]


@dataclass(frozen=True)
class ModelCost:
    """The costs of all layers of a network in execution order, and totals."""

    layers: tuple[LayerCost, ...]
    parameters: int  # trainable values
    stored_values: int  # values in a Darknet .weights file: weights, biases, 4 per channel with batch normalization
    size_hw: tuple[int, int]

    @property
    def conv_weights(self) -> int:
        """Number of weights of convolutions and linear layers: the column #Param in the CSPNet paper."""
        return sum(layer.weights for layer in self.layers)

    @property
    def bflops(self) -> float:
        """Darknet's BFLOPs: 2 per multiply-add of convolutions and linear layers, k*k*c*h*w per pooling."""
        return sum(layer.operations for layer in self.layers) / 1e9

    @property
    def conv_memory_access(self) -> int:
        """Number of input and output values of all convolutions. HarDNet (Chao et al. 2019) calls this value CIO."""
        return sum(layer.memory_access for layer in self.layers if layer.layer_type == "conv")

    @property
    def cio(self) -> int:
        """Number of input and output values of all layers, including poolings and the last linear layer.

        The CSPNet paper calls this value CIO. At 256x256, it is 34.41M for ResNeXt-50 (published 34.4M) and 32.64M for
        CSPResNeXt-50 (published 32.6M). No other choice of layers reproduces both values, and no choice does at
        224x224.
        """
        return sum(layer.memory_access for layer in self.layers)

    @property
    def largest_layer(self) -> LayerCost:
        """The layer with the most operations. The CSPNet paper calls it the computational bottleneck."""
        return max(self.layers, key=lambda layer: layer.operations)

    @property
    def largest_layer_bflops(self) -> float:
        """BFLOPs of the largest layer."""
        return self.largest_layer.operations / 1e9

    @property
    def part_bflops(self) -> dict[str, float]:
        """Map from each top-level module that has operations, such as `backbone`, to its BFLOPs."""
        parts = dict.fromkeys((layer.part for layer in self.layers if layer.operations), 0)
        for layer in self.layers:
            if layer.operations:
                parts[layer.part] += layer.operations
        return {part: operations / 1e9 for part, operations in parts.items()}


class _SkipConvolutions(TorchFunctionMode):
    """Context manager in which convolutions return zeros of the right shape.

    The meta device would also avoid the computation. But its first operation imports torch's compiler, which takes
    longer than all of `profile`.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.conv2d or kwargs or len(args) != 7 or isinstance(args[4], str):
            return func(*args, **(kwargs or {}))
        image, weight, _, stride, padding, dilation, _ = args
        sizes = zip(image.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        out_hw = [(size + 2 * pad - step * (kernel - 1) - 1) // every + 1 for size, kernel, every, pad, step in sizes]
        return image.new_zeros(image.shape[0], weight.shape[0], *out_hw)


def profile(model: nn.Module, size_hw: tuple[int, int]) -> ModelCost:
    """Return the cost of a network for one image, measured in a forward pass that skips the convolutions.

    As in Darknet, the product in SAM, upsampling, concatenation and global pooling are not counted. Maxout counts as
    pooling.

    Args:
        model: The network.
        size_hw: Height and width of the input in pixels.
    """
    layers: list[LayerCost] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, PROFILED_MODULES):
            handles.append(module.register_forward_hook(_make_cost_hook(name, layers)))
    was_training = model.training
    model.eval()
    with torch.no_grad(), _SkipConvolutions():
        model(next(model.parameters()).new_zeros(1, 3, *size_hw))
    model.train(was_training)
    for handle in handles:
        handle.remove()
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return ModelCost(tuple(layers), parameters, _count_stored_values(model), size_hw)


def _count_stored_values(model: nn.Module) -> int:
    """Return the number of values in a Darknet .weights file: weights, biases, 4 per channel of batch normalization."""
    stored = 0
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            stored += module.weight.numel() + (0 if module.bias is None else module.bias.numel())
        elif isinstance(module, nn.BatchNorm2d):
            stored += 4 * module.num_features
    return stored


def _make_cost_hook(name: str, layers: list[LayerCost]) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    def record(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        input_chw, output_chw = tuple(args[0].shape[1:]), tuple(output.shape[1:])
        if isinstance(module, nn.Conv2d):
            layer_type, weights = "conv", module.weight.numel()
            operations = 2 * weights * output_chw[1] * output_chw[2]
        elif isinstance(module, nn.Linear):
            layer_type, weights = "linear", module.weight.numel()
            operations = 2 * weights
        elif isinstance(module, Maxout):
            layer_type, weights = "pool", 0
            operations = _product(input_chw)  # a window of c_in / c_out channels for each output
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            layer_type, weights, operations = "average", 0, 0
        else:
            assert isinstance(module, (nn.MaxPool2d, nn.AvgPool2d))
            layer_type, weights = "pool", 0
            k = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * 2
            operations = k[0] * k[1] * _product(output_chw)
        layers.append(LayerCost(name, layer_type, input_chw, output_chw, weights, operations))

    return record


def _product(values: tuple[int, ...]) -> int:
    result = 1
    for value in values:
        result *= value
    return result
