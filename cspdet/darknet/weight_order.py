"""Official .weights files for our own networks: their convolutions in the order of the official cfgs.

Backbones and necks register theirs in that order already. What is left to say is where the cfgs have their heads, each
right behind the convolution that it reads: coarse first in YOLOv3's, fine first in those with a PANet.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from cspdet.darknet.network import DarknetClassifier, DarknetDetector
from cspdet.darknet.weights import LayerWeights, connected_weights, conv_weights
from cspdet.errors import ConfigError
from cspdet.models.classifier import BackboneClassifier, Classifier
from cspdet.models.detector import ComposedDetector, Detector
from cspdet.models.necks.panet_spp import PANetSPP
from cspdet.models.necks.prn import PRN
from cspdet.models.necks.yolov3 import YOLOv3Neck
from cspdet.models.necks.yolov3_tiny import YOLOv3TinyNeck

# The part of the neck behind which a head stands, and that head's scale, 0 the finest.
HEAD_LEVELS: dict[type[nn.Module], dict[str, int]] = {
    YOLOv3Neck: {"coarse": 2, "middle": 1, "fine": 0},  # yolov3.cfg
    YOLOv3TinyNeck: {"coarse": 1, "fine": 0},  # yolov3-tiny.cfg
    PRN: {"coarse": 1, "finer": 0},  # yolov3-tiny-prn.cfg
    PANetSPP: {"fine_last": 0, "middle_last": 1, "coarse_last": 2},  # csresnext50-panet-spp.cfg and its kin
}


def layers_in_file_order(model: Detector | Classifier) -> list[LayerWeights]:
    """Where the numbers of a .weights file belong in a network, in the file's order.

    Raises:
        ConfigError: there is no official cfg for a network of this neck.
    """
    if isinstance(model, (DarknetDetector, DarknetClassifier)):
        return model.body.layer_weights()
    if isinstance(model, BackboneClassifier):
        return [*_module_weights(model.backbone, "backbone"), connected_weights("fc", model.fc, None)]
    assert isinstance(model, ComposedDetector)
    neck: object = model.neck
    assert isinstance(neck, nn.Module)
    heads = HEAD_LEVELS.get(type(neck))
    if heads is None or len(heads) != len(model.head.pred_convs):
        raise ConfigError(f"there is no official cfg with the neck {type(neck).__name__} that weights could follow")
    found = list(_module_weights(model.backbone, "backbone"))
    for name, part in neck.named_children():
        found += _module_weights(part, f"neck.{name}")
        if name in heads:
            conv = model.head.pred_convs[heads[name]]
            assert isinstance(conv, nn.Conv2d)
            found.append(conv_weights(f"head.predict.{heads[name]}", conv, None))
    return found


def _module_weights(module: object, prefix: str) -> Iterator[LayerWeights]:
    """Every convolution of a part with the normalization that is registered right behind it."""
    assert isinstance(module, nn.Module)
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    for i, (name, layer) in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            after = layers[i + 1][1] if i + 1 < len(layers) else None
            norm = after if isinstance(after, nn.BatchNorm2d) else None
            yield conv_weights(f"{prefix}.{name}", layer, norm)
