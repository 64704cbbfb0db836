"""Networks built from a cfg; the memory of a feature map is freed after its last use."""

from __future__ import annotations

from torch import Tensor, nn

from cspdet.darknet.cfg import Cfg, CfgSection, anchor_mask
from cspdet.darknet.graph import Graph, build_graph
from cspdet.darknet.heads import AnchorPadding, head_config
from cspdet.darknet.layer_spec import IMAGE
from cspdet.darknet.layers import Connected, Convolution
from cspdet.darknet.schema import HEAD_SECTIONS
from cspdet.darknet.weights import LayerWeights, connected_weights, conv_weights
from cspdet.errors import ConfigError
from cspdet.models.blocks import init_weights
from cspdet.models.classifier import Classifier
from cspdet.models.detector import Detector
from cspdet.models.head import NUM_BOX_OUTPUTS, Anchors, init_prediction_bias
from cspdet.structures import ClassLayer


class DarknetBody(nn.Module):
    """The layers of a graph: (B, 3, H, W) -> the outputs of the layers `output_indices`, in this order."""

    def __init__(self, graph: Graph, output_indices: tuple[int, ...]):
        super().__init__()
        self.graph, self.output_indices = graph, output_indices
        self.layer = nn.ModuleList(layer.build() for layer in graph.layers)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = {IMAGE: images}
        outputs = {}
        for layer, module, freed in zip(self.graph.layers, self.layer, self.graph.last_uses, strict=True):
            maps[layer.index] = module(*(maps[source] for source in layer.sources))
            if layer.index in self.output_indices:
                outputs[layer.index] = maps[layer.index]
            for index in freed:
                del maps[index]
        return tuple(outputs[index] for index in self.output_indices)

    def layer_weights(self) -> list[LayerWeights]:
        """Return the layers that have weights, in the order of a .weights file."""
        weights = []
        for layer, module in zip(self.graph.layers, self.layer, strict=True):
            if layer.section.get_int("dontload", 0):
                continue
            scales = not layer.section.get_int("dontloadscales", 0)
            if isinstance(module, Convolution):
                weights.append(conv_weights(layer.name, module.conv, module.norm, scales=scales))
            elif isinstance(module, Connected):
                weights.append(connected_weights(layer.name, module.linear, module.norm, scales=scales))
        return weights


class DarknetDetector(Detector):
    """A detector built from a cfg with [yolo] or [region] sections.

    (B, 3, H, W) RGB in [0, 1] -> one raw tensor (B, A, H_l, W_l, 5 + C) per section of these types, sorted by stride;
    sections of equal stride are in the order of the cfg. A section that uses fewer anchors than the others is padded
    with anchors without objects.
    """

    def __init__(self, cfg: Cfg, *, bn_eps: float = 1e-5):
        super().__init__()
        self.cfg = cfg
        graph = build_graph(cfg, bn_eps=bn_eps)
        heads = [layer for layer in graph.layers if layer.section.section_type in HEAD_SECTIONS]
        if not heads:
            raise cfg.net.error("the layers have no [yolo] or [region]; expected a detector")
        strides = {layer.index: _stride(layer.section, graph.size_hw, layer.shape.size_hw) for layer in heads}
        heads.sort(key=lambda layer: strides[layer.index])
        self.body = DarknetBody(graph, tuple(layer.index for layer in heads))
        sections = [layer.section for layer in heads]
        level_strides = tuple(sorted(strides.values()))
        self._anchors = Anchors(head_config(sections, level_strides), level_strides)
        self._num_classes = cfg.num_classes
        missing = [self._anchors.wh.shape[1] - len(anchor_mask(section)) for section in sections]
        self.padding = nn.ModuleList(
            AnchorPadding(count, cfg.num_classes) if count else nn.Identity() for count in missing
        )
        init_weights(self)
        self._pred_conv_indices: list[int] = []
        for head, stride in zip(heads, self.strides, strict=True):
            before = self.body.layer[head.sources[0]] if head.sources[0] != IMAGE else None
            if isinstance(before, Convolution) and before.norm is None:
                init_prediction_bias(before.conv, self._num_classes, stride)
                self._pred_conv_indices.append(head.sources[0])

    @property
    def anchors(self) -> Anchors:
        """Anchors, strides and decoding parameters of the heads."""
        return self._anchors

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._num_classes

    @property
    def class_layers(self) -> tuple[ClassLayer, ...]:
        """The convolutions before the [yolo] and [region] sections, except those with batch normalization."""
        layers = [self.body.layer[index] for index in self._pred_conv_indices]
        return tuple(ClassLayer(layer.conv, NUM_BOX_OUTPUTS) for layer in layers if isinstance(layer, Convolution))

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Raise ValueError if the network cannot run at an input size, or would have other strides at this size.

        Args:
            size_hw: Height and width of the input.
        """
        graph = _build_graph_at(self.cfg, size_hw)
        for index, stride in zip(self.body.output_indices, self.strides, strict=True):
            layer = graph.layers[index]
            if layer.shape.size_hw != (size_hw[0] / stride, size_hw[1] / stride):
                raise ValueError(f"expected multiples of {max(self.strides)}, found {size_hw[0]}x{size_hw[1]}")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(pad(raw) for pad, raw in zip(self.padding, self.body(images), strict=True))


class DarknetClassifier(Classifier):
    """A classifier built from a cfg without [yolo] and [region]: (B, 3, H, W) RGB in [0, 1] -> (B, C) logits."""

    def __init__(self, cfg: Cfg, *, bn_eps: float = 1e-5):
        super().__init__()
        self.cfg = cfg
        graph = build_graph(cfg, bn_eps=bn_eps)
        last = graph.layers[-1]
        if cfg.heads:
            raise cfg.net.error(f"the layers have a [{cfg.heads[0].section_type}]; expected a classifier")
        if last.shape.size_hw != (1, 1):
            raise last.section.error(
                f"the output of the network is {last.shape}; expected a [yolo], or one cell as in a classifier"
            )
        self.body = DarknetBody(graph, (last.index,))
        self._num_classes = last.shape.channels
        init_weights(self)

    @property
    def strides(self) -> tuple[int, ...]:
        """Always (1,), because the cfg of a classifier does not state strides; `check_size` checks the input size."""
        return (1,)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._num_classes

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Raise ValueError if the network cannot run at this input size (height, width)."""
        last = _build_graph_at(self.cfg, size_hw).layers[-1]
        if last.shape != (self.num_classes, 1, 1):
            raise ValueError(f"{size_hw[0]}x{size_hw[1]} does not fit the cfg: the output would be {last.shape}")

    def forward(self, images: Tensor) -> Tensor:
        (output,) = self.body(images)
        return output.flatten(1)


def _build_graph_at(cfg: Cfg, size_hw: tuple[int, int]) -> Graph:
    """Build the graph for another input size; raise ValueError if a layer would have a different number of weights."""
    try:
        graph = build_graph(cfg, size_hw)
    except ConfigError as error:
        raise ValueError(f"{size_hw[0]}x{size_hw[1]} does not fit the cfg: {error}") from None
    for layer, before in zip(graph.layers, build_graph(cfg).layers, strict=True):
        if layer.num_weights != before.num_weights:
            raise ValueError(f"{size_hw[0]}x{size_hw[1]} does not fit the cfg: {layer.name} would have other weights")
    return graph


def _stride(head: CfgSection, size_hw: tuple[int, int], cells_hw: tuple[int, int]) -> int:
    """Return the stride of a head in input pixels. Raise ConfigError if it differs between height and width."""
    (height, width), (rows, columns) = size_hw, cells_hw
    if height % rows or width % columns or height // rows != width // columns:
        raise head.error(f"{rows}x{columns} cells for {height}x{width} pixels; expected square cells of whole pixels")
    return height // rows
