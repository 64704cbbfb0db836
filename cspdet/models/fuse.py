"""Batch normalization folded into the convolution before it: the same function with one pass less over every map."""

from __future__ import annotations

import copy
import logging

import torch
from torch import fx, nn

from cspdet.models.blocks import shortcut
from cspdet.models.detector import ComposedDetector

log = logging.getLogger("cspdet")

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LAYERS = (nn.Conv2d, nn.Linear)


def fuse_conv_bn(model: nn.Module) -> nn.Module:
    """A network in evaluation mode that gives what `model` gives, up to rounding, for inference alone.

    Every batch normalization whose input comes from one convolution or linear layer, and from nowhere else, goes into
    that layer's weights; (image - 0) / 1 is left out. `model` stays as it is.
    A network without normalizations, or whose Python code cannot be traced, is returned itself.
    """
    if not any(isinstance(part, NORMS) for part in model.modules()):
        return model
    try:
        graph = trace_network(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        log.info("the normalizations are not folded: %s", str(error).splitlines()[0][:120] if str(error) else error)
        return model
    fused = fx.GraphModule(model, graph, type(model).__name__)
    for node in list(graph.nodes):
        _fuse_norm_node(fused, node)
    if isinstance(model, ComposedDetector) and not model.mean.any() and bool((model.std == 1).all()):
        _skip_normalization(graph)
    graph.eliminate_dead_code()
    graph.lint()
    fused.delete_all_unused_submodules()
    fused.recompile()
    return copy.deepcopy(fused).requires_grad_(False).eval()


def trace_network(model: nn.Module) -> fx.Graph:
    """The calls of a forward pass, module for module.

    Raises:
        fx.proxy.TraceError, TypeError: its Python code depends on the numbers in a map.
    """
    return ModelTracer().trace(model)


class ModelTracer(fx.Tracer):
    """Trace a network with `shortcut` as one call, since its Python code reads shapes."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=(shortcut,))


def _module(owner: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return owner.get_submodule(str(node.target)) if node.op == "call_module" else None


def _fuse_norm_node(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Fold the normalization that `node` calls into the layer that it reads, where nothing else reads that."""
    norm = _module(graph_module, node)
    before = node.args[0] if node.args else None
    if not isinstance(norm, NORMS) or not isinstance(before, fx.Node) or len(before.users) != 1:
        return
    layer = _module(graph_module, before)
    if not isinstance(layer, LAYERS) or norm.running_mean is None:
        return
    name = f"{before.name}_folded"  # a new name: the layer may be called in several places
    graph_module.add_submodule(name, fuse_norm_into_layer(layer, norm))
    before.target = name
    node.replace_all_uses_with(before)
    graph_module.graph.erase_node(node)


@torch.no_grad()
def fuse_norm_into_layer(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Conv2d | nn.Linear:
    """One layer for a convolution or linear layer and the normalization of its output, in evaluation mode.

    y = g (Wx + b - m) / sqrt(v + eps) + h, so W' = sW and b' = s(b - m) + h with s = g / sqrt(v + eps) an output
    channel. Worked out in float64, as a variance near 0 would cost digits.
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
    """Take (images - mean) / std out of the graph: what reads it reads the images."""
    (images,) = (node for node in graph.nodes if node.op == "placeholder")
    (centered,) = images.users
    (scaled,) = centered.users
    scaled.replace_all_uses_with(images)
