"""A classifier's cfg for another number of classes: its text, with one line changed."""

from __future__ import annotations

from cspdet.darknet.cfg import parse_cfg
from cspdet.darknet.graph import build_graph

NUM_OUTPUTS_KEYS = {"convolutional": "filters", "connected": "output"}  # what says how many numbers a layer gives


def set_num_classes(text: str, num_classes: int, source: str) -> str:
    """The text of a cfg whose last layer with weights gives `classes` numbers.

    Raises:
        ConfigError: mistakes in the cfg, or a last layer whose count does not decide how many numbers come out.
    """
    cfg = parse_cfg(text, source)
    layers = build_graph(cfg).layers
    if layers[-1].shape.channels == num_classes:
        return text
    last = next((layer.section for layer in reversed(layers) if layer.section.section_type in NUM_OUTPUTS_KEYS), None)
    if last is None:
        raise cfg.net.error("no layer has weights; expected a classifier")
    key = NUM_OUTPUTS_KEYS[last.section_type]
    lines = text.split("\n")
    if key in last:
        lines[last.options[key].line - 1] = f"{key}={num_classes}"
    else:
        lines.insert(last.line, f"{key}={num_classes}")
    changed = "\n".join(lines)
    found = build_graph(parse_cfg(changed, source)).layers[-1].shape.channels
    if found != num_classes:
        raise last.error(f"does not decide how many classes there are: with {num_classes}, {found} numbers come out")
    return changed
