"""Packed convolutions for torch on a CPU: weights in oneDNN's memory layout, and fused activations.

PyTorch converts the weights to oneDNN's layout in every forward pass. At batch size 1, this costs as much as a few
layers. torch.compile uses two operators that convert the weights once; this module uses the same operators without the
compiler. Because the operators are not documented, the outputs of the packed network are compared with the outputs of
the original. If the operators are missing or the outputs differ, the original network is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from cspdet.models.trace import propagate_shapes

log = logging.getLogger("cspdet")

MAX_RELATIVE_ERROR = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # relative to the largest output

FusedActivation = tuple[str, list[float]]  # name of an activation for the operator, and its parameters


class PackedConv(nn.Module):
    """A convolution with packed weights and fused activation: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, conv: nn.Conv2d, fused: FusedActivation, input_shape: tuple[int, ...]):
        super().__init__()
        self.conv_args = (conv.padding, conv.stride, conv.dilation, conv.groups)
        reorder: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
        self.weight = reorder(conv.weight.detach().to_mkldnn(), *self.conv_args, input_shape)
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.activation, self.scalars = fused

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.conv_args, self.activation, self.scalars, ""
        )


def prepack(fused: nn.Module, size_hw: tuple[int, int]) -> fx.GraphModule | None:
    """Return a copy of a network with weights packed for oneDNN, or None if packing fails or changes the outputs.

    Args:
        fused: Result of `fuse_conv_bn`, on the CPU in evaluation mode.
        size_hw: Image size for which the memory layout is optimized; other sizes can be used too.
    """
    if not isinstance(fused, fx.GraphModule) or not torch.backends.mkldnn.is_available():
        return None
    dtype = next(fused.parameters()).dtype
    images = torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(0)).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            packed = _prepack_graph(fused, images)
            difference = _relative_error(_outputs(packed(images)), _outputs(fused(images)))
    except (AttributeError, RuntimeError, TypeError) as error:
        log.info("torch: weights are not packed: %s", str(error).splitlines()[0][:120])
        return None
    if not difference <= MAX_RELATIVE_ERROR.get(dtype, 1e-4):
        log.info("torch: weights are not packed: the outputs differ by %.1e of the largest", difference)
        return None
    return packed


def _prepack_graph(fused: fx.GraphModule, images: Tensor) -> fx.GraphModule:
    propagate_shapes(fused, fused.graph, images)
    packed = fx.GraphModule(fused, _copy_graph(fused.graph))
    for node in list(packed.graph.nodes):
        conv = packed.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        activation = _following_activation(packed, node)
        name = f"{node.name}_packed"
        packed.add_submodule(name, PackedConv(conv, activation or ("none", []), node.all_input_nodes[0].meta["shape"]))
        node.target = name
        if activation is not None:
            (behind,) = node.users
            behind.replace_all_uses_with(node)
            packed.graph.erase_node(behind)
    packed.delete_all_unused_submodules()
    packed.recompile()
    return packed.eval()


def _copy_graph(graph: fx.Graph) -> fx.Graph:
    result = fx.Graph()
    output = result.graph_copy(graph, {})
    result.output(output)
    return result


def _following_activation(owner: fx.GraphModule, node: fx.Node) -> FusedActivation | None:
    """Return name and parameters of the activation after `node`, as the oneDNN operator expects them.

    If the operator does not support the activation, or `node` has several consumers, return None.
    """
    if len(node.users) != 1:
        return None
    (user,) = node.users
    module = owner.get_submodule(str(user.target)) if user.op == "call_module" else None
    if isinstance(module, nn.LeakyReLU):
        return "leaky_relu", [module.negative_slope]
    if isinstance(module, nn.Hardtanh):  # includes ReLU6, a subclass
        return "hardtanh", [float(module.min_val), float(module.max_val)]
    names = {nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.SiLU: "swish", nn.Tanh: "tanh"}
    name = names.get(type(module))
    return None if name is None else (name, [])


def _outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


def _relative_error(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    pairs = list(zip(actual, expected, strict=True))
    max_magnitude = max(float(b.float().abs().max()) for _, b in pairs)
    differences = torch.stack([(a.float() - b.float()).abs().max() for a, b in pairs])  # unlike max, keeps NaN
    return float(differences.max()) / max(max_magnitude, 1e-12)
