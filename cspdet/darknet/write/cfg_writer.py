"""Writer that converts a traced network to cfg sections, in a valid layer order.

Layers with weights are written in the order of their registration, which is the order of the published cfgs. Each
[yolo] is written as soon as all layers on which it depends are written. Other layers are written when another layer
first needs their output. The conversion rules are in `cspdet.darknet.write.sections`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from torch import fx, nn

from cspdet.darknet.layer_spec import IMAGE
from cspdet.errors import ConfigError
from cspdet.models.head import YoloHead
from cspdet.models.trace import ancestors, feature_shape, node_name
from cspdet.structures import FeatureShape

Rule = Callable[
    ["CfgWriter", fx.Node], int
]  # writes the layers of a node; returns the index of the layer with its output
WeightedModule = nn.Conv2d | nn.Linear
WEIGHTED_MODULES = (nn.Conv2d, nn.Linear)


@dataclass
class CfgLayer:
    """A section under construction. A following normalization or activation can be fused into the section."""

    section_type: str
    shape: FeatureShape
    options: dict[str, object] = field(default_factory=dict)
    name: str = ""  # path of the module that has the weights
    weighted_module: WeightedModule | None = None
    norm: nn.BatchNorm2d | None = None


class CfgWriter:
    """Converter from the nodes of a traced graph to cfg layers.

    Attributes:
        layers: The layers written so far.
    """

    def __init__(
        self,
        model: nn.Module,
        where: str,
        rules: Mapping[object, Rule],
        head_options: Callable[[int], dict[str, object]],
    ):
        """Create a writer without layers.

        Args:
            model: The traced network.
            where: Name of the model for messages.
            rules: The conversion rule of each module type, function and method.
            head_options: Function from a level (0: finest) to the options of its [yolo].
        """
        self.model, self.where, self.rules, self.head_options = model, where, rules, head_options
        self.layers: list[CfgLayer] = []
        self._index_of_node: dict[fx.Node, int] = {}
        self._shared: set[int] = set()  # layers whose output is read more than once: nothing can be fused into them

    def write(self, graph: fx.Graph) -> None:
        """Write all layers on which the output of the network depends."""
        pending_heads = self._head_inputs(graph)
        done: set[fx.Node] = set()
        order = self._weighted_nodes_in_order(graph)
        for node in order:
            self.resolve(node)
            done.add(node)
            for level, source in list(pending_heads.items()):
                if (ancestors(source) | {source}).intersection(order) <= done:
                    self._write_head(level, source)
                    del pending_heads[level]
        if self.layers and self.layers[-1].section_type != "yolo":
            (output,) = (node for node in graph.nodes if node.op == "output")
            self.ensure_last(output.all_input_nodes[0], output)
            self.emit("softmax", self.layers[-1].shape, {"groups": 1})

    def resolve(self, node: fx.Node) -> int:
        """Return the index of the layer with the output of a node. Write the layer if it does not exist yet."""
        if node not in self._index_of_node:
            self._index_of_node[node] = IMAGE if node.op == "placeholder" else self._rule(node)(self, node)
            if len(node.users) > 1:
                self._shared.add(self._index_of_node[node])
        return self._index_of_node[node]

    def emit(
        self,
        section_type: str,
        shape: FeatureShape,
        options: Mapping[str, object],
        *,
        name: str = "",
        weighted_module: WeightedModule | None = None,
    ) -> int:
        """Append a layer and return its index."""
        self.layers.append(CfgLayer(section_type, shape, dict(options), name, weighted_module))
        return len(self.layers) - 1

    def relative_index(self, index: int, node: fx.Node) -> int:
        """Return the index of a layer relative to the next section, a negative number."""
        if index == IMAGE:
            self.unsupported(node, "only the first layer can read the image")
        return index - len(self.layers)

    def ensure_last(self, source: fx.Node, node: fx.Node) -> int:
        """Make the output of `source` the last layer, because most sections read the last layer. Return its index.

        Args:
            source: The node whose output is needed.
            node: The node that reads this output, for error messages.
        """
        return self.ensure_layer_last(self.resolve(source), node)

    def ensure_layer_last(self, index: int, node: fx.Node) -> int:
        """If the layer `index` is not last, append a [route] that reads it. Return the index of the last layer."""
        if index == len(self.layers) - 1:
            return index
        return self.emit("route", self.layers[index].shape, {"layers": self.relative_index(index, node)})

    def fusable_layer(self, index: int) -> CfgLayer | None:
        """Return the layer if a following normalization or activation can be fused into it, else None.

        The layer must have no activation yet, and its output must be read only once.
        """
        if index == IMAGE or index in self._shared or self.layers[index].options.get("activation") != "linear":
            return None
        return self.layers[index]

    def module(self, node: fx.Node) -> nn.Module:
        """Return the module that a node calls."""
        return self.model.get_submodule(str(node.target))

    def unsupported(self, node: fx.Node, reason: str) -> NoReturn:
        """Raise ConfigError, because the node cannot be expressed in a cfg."""
        raise ConfigError(f"{self.where}: {node_name(node)} cannot be expressed in a Darknet cfg: {reason}")

    def _rule(self, node: fx.Node) -> Rule:
        key = type(self.module(node)) if node.op == "call_module" else node.target
        if key not in self.rules:
            self.unsupported(node, f"there is no section for {getattr(key, '__name__', key)}")
        return self.rules[key]

    def _weighted_nodes_in_order(self, graph: fx.Graph) -> list[fx.Node]:
        """Return the nodes of layers with weights in registration order, which is the order of the published cfgs."""
        rank = {name: i for i, (name, _) in enumerate(self.model.named_modules())}
        called = [node for node in graph.nodes if node.op == "call_module"]
        weighted = [node for node in called if isinstance(self.module(node), WEIGHTED_MODULES)]
        return sorted(weighted, key=lambda node: rank[str(node.target)])

    def _head_inputs(self, graph: fx.Graph) -> dict[int, fx.Node]:
        """Return the node that the head reads at each level (0: finest)."""
        inputs: dict[int, fx.Node] = {}
        for node in graph.nodes:
            if node.op == "call_module" and isinstance(self.module(node), YoloHead):
                inputs.update(enumerate(node.all_input_nodes))
        return inputs

    def _write_head(self, level: int, source: fx.Node) -> None:
        (head,) = (module for module in self.model.modules() if isinstance(module, YoloHead))
        conv = head.pred_convs[level]
        assert isinstance(conv, nn.Conv2d)
        self.ensure_last(source, source)
        shape = feature_shape(source)._replace(channels=conv.out_channels)
        # With `new_coords` Darknet applies the sigmoid in the convolution
        act = "logistic" if head.anchors.wh_decoding == "square" else "linear"
        options = {"filters": conv.out_channels, "size": 1, "stride": 1, "pad": 1, "activation": act}
        self.emit("convolutional", shape, options, name=f"head.pred_convs.{level}", weighted_module=conv)
        self.emit("yolo", shape, self.head_options(level))
