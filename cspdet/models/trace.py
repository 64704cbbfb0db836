"""A network of ours as a graph of what Darknet has sections for, traced from the modules themselves.

Nodes are the layers of PyTorch, the few blocks of ours that are one section each, and the functions between them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from cspdet.darknet.layer_spec import FeatureShape
from cspdet.models.backbones.darknet_reference import SameSizeMaxPool
from cspdet.models.blocks import Maxout, shortcut
from cspdet.models.head import YoloHead

LEAF_MODULES = (Maxout, SameSizeMaxPool, YoloHead)
WEIGHTED_MODULES = (nn.Conv2d, nn.Linear)


def trace(model: nn.Module, size_hw: tuple[int, int]) -> fx.Graph:
    """The graph of a network in evaluation mode, with the shape of every map for one picture of `size_hw`.

    Raises:
        fx.proxy.TraceError, TypeError: its Python code depends on the numbers in a map.
    """
    graph = SectionTracer().trace(model)
    with torch.no_grad():
        ShapePropagator(model, graph=graph).run(torch.zeros(1, 3, *size_hw, device=next(model.parameters()).device))
    return graph


def feature_shape(node: fx.Node) -> FeatureShape:
    """Of the map of a node, for one picture."""
    shape = node.meta["shape"]
    assert isinstance(shape, FeatureShape)
    return shape


def weighted_nodes_in_order(model: nn.Module, graph: fx.Graph) -> list[fx.Node]:
    """The layers with weights as the network registers them: where a cfg was released, in its order."""
    rank = {name: i for i, (name, _) in enumerate(model.named_modules())}
    called = [node for node in graph.nodes if node.op == "call_module"]
    found = [node for node in called if isinstance(model.get_submodule(str(node.target)), WEIGHTED_MODULES)]
    return sorted(found, key=lambda node: rank[str(node.target)])


def ancestors(node: fx.Node) -> set[fx.Node]:
    """Every node that this one depends on."""
    found: set[fx.Node] = set()
    todo = list(node.all_input_nodes)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += node.all_input_nodes
    return found


def node_name(node: fx.Node) -> str:
    """As messages call it: a module's path, or the module that a function stands in, and the function."""
    if node.op == "call_module":
        return str(node.target)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"`{function}` in {stack[-1][0]}" if stack and stack[-1][0] else f"`{function}`"


class SectionTracer(fx.Tracer):
    """Trace a network down to the modules and functions that are one cfg section each."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=(shortcut,))  # it asks for shapes, and is one section

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAF_MODULES) or super().is_leaf_module(m, module_qualified_name)


class ShapePropagator(fx.Interpreter):
    """Run a traced network and note the shape of each result in `node.meta["shape"]`."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.ndim in (2, 4):
            n.meta["shape"] = FeatureShape(*(*result.shape[1:], 1, 1)[:3])
        return result
