"""Change the number of classes of a cfg: in the parsed sections of a detector, and in the text of a classifier."""

from __future__ import annotations

from dataclasses import replace

from cspdet.darknet.cfg import Cfg, CfgSection, anchor_mask, parse_cfg
from cspdet.darknet.graph import build_graph
from cspdet.darknet.schema import HEAD_SECTIONS

NUM_OUTPUTS_KEYS = {"convolutional": "filters", "connected": "output"}  # the key with the number of outputs of a layer


def with_num_classes(cfg: Cfg, num_classes: int) -> Cfg:
    """Return a detector cfg with another number of classes, set in each head and in the convolution before it.

    Raises:
        ConfigError: A [yolo] or [region] does not directly follow a [convolutional].
    """
    layers = list(cfg.layers)
    for i, section in enumerate(cfg.layers):
        if section.section_type not in HEAD_SECTIONS or section.get_int("classes", 20) == num_classes:
            continue
        if i == 0 or layers[i - 1].section_type != "convolutional":
            raise section.error("expected a [convolutional] before it, whose filters depend on the number of classes")
        layers[i] = section.with_options(classes=num_classes)
        layers[i - 1] = layers[i - 1].with_options(filters=len(anchor_mask(section)) * (5 + num_classes))
    return replace(cfg, layers=tuple(layers))


def _set_option(text: str, section: CfgSection, key: str, value: int) -> str:
    lines = text.split("\n")
    if key in section:
        lines[section.options[key].line - 1] = f"{key}={value}"
    else:
        lines.insert(section.line, f"{key}={value}")
    return "\n".join(lines)


def set_num_classes(text: str, num_classes: int, source: str) -> str:
    """Return the text of a classifier cfg with another number of classes, set in the last layer that has weights.

    Args:
        text: Text of the cfg.
        num_classes: The new number of classes.
        source: Name of the cfg for messages.

    Raises:
        ConfigError: The cfg is invalid, or the number of network outputs does not depend on the last layer with
            weights.
    """
    cfg = parse_cfg(text, source)
    layers = build_graph(cfg).layers
    if layers[-1].shape.channels == num_classes:
        return text
    last = next((layer.section for layer in reversed(layers) if layer.section.section_type in NUM_OUTPUTS_KEYS), None)
    if last is None:
        raise cfg.net.error("no layer has weights; expected a classifier")
    changed = _set_option(text, last, NUM_OUTPUTS_KEYS[last.section_type], num_classes)
    num_outputs = build_graph(parse_cfg(changed, source)).layers[-1].shape.channels
    if num_outputs != num_classes:
        raise last.error(f"does not set the number of classes: for {num_classes} the network has {num_outputs} outputs")
    return changed
