"""Fusion of batch normalization into the preceding convolution or linear layer, for inference."""

from __future__ import annotations

import copy
import logging

import torch
from torch import fx, nn

from cspdet.models.detector import ComposedDetector
from cspdet.models.trace import TRACE_ERRORS, trace

log = logging.getLogger("cspdet")

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LAYERS = (nn.Conv2d, nn.Linear)


def _try_trace(model: nn.Module) -> fx.Graph | None:
    try:
        return trace(model)
    except TRACE_ERRORS as error:
        log.info("batch normalization is not fused: %s", str(error).splitlines()[0][:120] if str(error) else error)
        return None


def fuse_conv_bn(model: nn.Module) -> fx.GraphModule | None:
    """Return a copy of a network for inference, with batch normalization fused into convolutions and linear layers.

    A normalization is fused if its input is the output of one layer, and this output has no other consumer. An image
    normalization (image - 0) / 1 is removed. The outputs change only by rounding errors.

    Args:
        model: The network, in evaluation mode; it is not changed.

    Returns:
        The fused network, or None if the network has no batch normalization or cannot be traced.
    """
    if not any(isinstance(part, NORMS) for part in model.modules()):
        return None
    graph = _try_trace(model)
    if graph is None:
        return None
    fused = fx.GraphModule(model, graph, type(model).__name__)
    for node in list(graph.nodes):
        _fuse_norm_node(fused, node)
    if isinstance(model, ComposedDetector) and not model.mean.any() and bool((model.std == 1).all()):
        _skip_normalization(graph)
    graph.eliminate_dead_code()
    graph.lint()
    fused.delete_all_unused_submodules()
    fused.recompile()
    result: fx.GraphModule = copy.deepcopy(fused).requires_grad_(False).eval()
    return result


def _module(owner: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return owner.get_submodule(str(node.target)) if node.op == "call_module" else None


def _fuse_norm_node(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Fuse the normalization called by `node` into the preceding layer.

    Nothing changes if the node is not a normalization, or if the output of the layer has another consumer.
    """
    norm = _module(graph_module, node)
    before = node.args[0] if node.args else None
    if not isinstance(norm, NORMS) or not isinstance(before, fx.Node) or len(before.users) != 1:
        return
    layer = _module(graph_module, before)
    if not isinstance(layer, LAYERS) or norm.running_mean is None:
        return
    name = f"{before.name}_fused"  # a new name, because the layer may be called by several nodes
    graph_module.add_submodule(name, fuse_norm_into_layer(layer, norm))
    before.target = name
    node.replace_all_uses_with(before)
    graph_module.graph.erase_node(node)


@torch.no_grad()
def fuse_norm_into_layer(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Conv2d | nn.Linear:
    """Return one layer that is equivalent to a convolution or linear layer followed by batch normalization.

    Layer and normalization compute y = g (Wx + b - m) / sqrt(v + eps) + h, with weight g, bias h, mean m and variance v
    of the normalization. With s = g / sqrt(v + eps) per output channel, the new layer has weight sW and bias s(b - m) +
    h. Both are computed in float64, because variances near 0 reduce the accuracy.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() if layer.bias is None else layer.bias.double() - norm.running_mean.double()
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    result = _empty_copy(layer)
    result.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
    result.bias = nn.Parameter(shift.to(layer.weight.dtype), requires_grad=False)
    return result.eval()


def _empty_copy(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, device="meta")
    assert not isinstance(layer.padding, str)
    return nn.Conv2d(
        layer.in_channels, layer.out_channels, _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding),
        _pair(layer.dilation), layer.groups, padding_mode=layer.padding_mode, device="meta",
    )  # fmt: skip


def _pair(sides: tuple[int, ...]) -> tuple[int, int]:
    height, width = sides
    return height, width


def _skip_normalization(graph: fx.Graph) -> None:
    """Remove (images - mean) / std from the graph, and connect its consumers to the images."""
    (images,) = (node for node in graph.nodes if node.op == "placeholder")
    (centered,) = images.users
    (scaled,) = centered.users
    scaled.replace_all_uses_with(images)
