"""Order of the layers of a network in an official .weights file.

The convolutions of backbone and neck are in the order in which the modules register them. Each 1x1 convolution of the
head directly follows the convolution of the neck whose output it reads. So the levels are in the order coarse to fine
in the YOLOv3 cfgs, and fine to coarse in the cfgs with a PANet.
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

# For each neck: the submodules that a prediction convolution follows, and the level of that convolution (0: finest).
HEAD_LEVELS: dict[type[nn.Module], dict[str, int]] = {
    YOLOv3Neck: {"coarse": 2, "middle": 1, "fine": 0},  # yolov3.cfg
    YOLOv3TinyNeck: {"coarse": 1, "fine": 0},  # yolov3-tiny.cfg
    PRN: {"coarse": 1, "finer": 0},  # yolov3-tiny-prn.cfg
    PANetSPP: {"fine_output": 0, "middle_output": 1, "coarse_output": 2},  # csresnext50-panet-spp.cfg and similar ones
}


def layers_in_file_order(model: Detector | Classifier) -> list[LayerWeights]:
    """Return the layers with weights of a network, in the order of its official .weights file.

    Raises:
        ConfigError: There is no official cfg with this neck, so the order is unknown.
    """
    if isinstance(model, (DarknetDetector, DarknetClassifier)):
        return model.body.layer_weights()
    if isinstance(model, BackboneClassifier):
        return [*_module_weights(model.backbone, "backbone"), connected_weights("fc", model.fc, None)]
    assert isinstance(model, ComposedDetector)
    return _detector_layers(model)


def _detector_layers(model: ComposedDetector) -> list[LayerWeights]:
    """Return the layers of a detector in file order. Each head convolution follows the neck module that it reads."""
    neck: object = model.neck
    assert isinstance(neck, nn.Module)
    heads = HEAD_LEVELS.get(type(neck))
    if heads is None or len(heads) != len(model.head.pred_convs):
        raise ConfigError(
            f"there is no official cfg with the neck {type(neck).__name__}, so the order of its weights is unknown"
        )
    layers = list(_module_weights(model.backbone, "backbone"))
    missing = heads.keys() - dict(neck.named_children()).keys()
    assert not missing, f"HEAD_LEVELS: {type(neck).__name__} has no {missing}"
    for name, part in neck.named_children():
        layers += _module_weights(part, f"neck.{name}")
        if name in heads:
            conv = model.head.pred_convs[heads[name]]
            assert isinstance(conv, nn.Conv2d)
            layers.append(conv_weights(f"head.pred_convs.{heads[name]}", conv, None))
    return layers


def _module_weights(module: object, prefix: str) -> Iterator[LayerWeights]:
    """Yield every convolution of a module, together with the normalization that is registered directly after it."""
    assert isinstance(module, nn.Module)
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    for i, (name, layer) in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            after = layers[i + 1][1] if i + 1 < len(layers) else None
            norm = after if isinstance(after, nn.BatchNorm2d) else None
            yield conv_weights(f"{prefix}.{name}", layer, norm)
