"""Tracing of networks to graphs with torch.fx, for fusion, weight packing and cfg export."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from cspdet.models.blocks import shortcut
from cspdet.structures import FeatureShape

# Errors of tracing if the Python code of a network depends on the values or shapes of its tensors.
TRACE_ERRORS = (fx.proxy.TraceError, TypeError, RuntimeError)
_TRACE_LOCK = threading.Lock()  # torch.fx replaces methods of nn.Module while it traces
FEATURE_MAP_NDIM = (2, 4)  # (B, C) and (B, C, H, W)


class ModelTracer(fx.Tracer):
    """Traces a network. Each call of `blocks.shortcut` or of a module in `leaf_types` becomes one node.

    Calls of modules in other threads are not traced.
    """

    def __init__(self, leaf_types: tuple[type[nn.Module], ...] = ()) -> None:
        super().__init__(autowrap_functions=(shortcut,))  # its Python code depends on tensor shapes
        self.leaf_types = leaf_types
        self.thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module becomes one node of the graph; called by torch.fx."""
        return isinstance(m, self.leaf_types) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace the call of a module. torch.fx also calls this method for networks that run in other threads."""
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Trace the access to an attribute. torch.fx also calls this method for networks that run in other threads."""
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class ShapePropagator(fx.Interpreter):
    """Runs a graph and stores the shape of each tensor in the `meta` of its node."""

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; called by torch.fx."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def trace(model: nn.Module, leaf_types: tuple[type[nn.Module], ...] = ()) -> fx.Graph:
    """Trace the forward pass of a network.

    Args:
        model: The network, in evaluation mode.
        leaf_types: Module types outside torch.nn that become one node.

    Raises:
        fx.proxy.TraceError, TypeError: The Python code of the network depends on tensor values.
    """
    with _TRACE_LOCK:
        return ModelTracer(leaf_types).trace(model)


def propagate_shapes(model: nn.Module, graph: fx.Graph, images: Tensor) -> None:
    """Run `graph` on `images` (B, 3, H, W), and store the shape of each tensor in its node."""
    with torch.no_grad():
        ShapePropagator(model, graph=graph).run(images)


def is_feature_map(node: fx.Node) -> bool:
    """Return whether the output of a node is one tensor (B, C) or (B, C, H, W); requires `propagate_shapes`."""
    return len(node.meta.get("shape", ())) in FEATURE_MAP_NDIM


def feature_shape(node: fx.Node) -> FeatureShape:
    """Return channels, height and width of a node's output. An output (B, C) has the shape (C, 1, 1)."""
    assert is_feature_map(node), f"{node_name(node)} has no feature map"
    channels, height, width = (*node.meta["shape"][1:], 1, 1)[:3]
    return FeatureShape(channels, height, width)


def ancestors(node: fx.Node) -> set[fx.Node]:
    """Return all nodes on which a node depends."""
    visited: set[fx.Node] = set()
    pending = list(node.all_input_nodes)
    while pending:
        node = pending.pop()
        if node not in visited:
            visited.add(node)
            pending += node.all_input_nodes
    return visited


def node_name(node: fx.Node) -> str:
    """Return a name of a node for messages: the path of a module, or a function and the module that calls it."""
    if node.op == "call_module":
        return str(node.target)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"`{function}` in {stack[-1][0]}" if stack and stack[-1][0] else f"`{function}`"
