"""A classifier's cfg for another number of classes: its text, with one line changed."""

from __future__ import annotations

from cspdet.darknet.cfg import parse_cfg
from cspdet.darknet.graph import plan

COUNT_KEY = {"convolutional": "filters", "connected": "output"}  # what says how many numbers a layer gives


def text_for_classes(text: str, classes: int, source: str) -> str:
    """The text of a cfg whose last layer with weights gives `classes` numbers.

    Raises:
        ConfigError: mistakes in the cfg, or a last layer whose count does not decide how many numbers come out.
    """
    cfg = parse_cfg(text, source)
    layers = plan(cfg).layers
    if layers[-1].shape.channels == classes:
        return text
    last = next((layer.section for layer in reversed(layers) if layer.section.kind in COUNT_KEY), None)
    if last is None:
        raise cfg.net.problem("no layer has weights; expected a classifier")
    key = COUNT_KEY[last.kind]
    lines = text.split("\n")
    if key in last:
        lines[last.options[key].line - 1] = f"{key}={classes}"
    else:
        lines.insert(last.line, f"{key}={classes}")
    changed = "\n".join(lines)
    found = plan(parse_cfg(changed, source)).layers[-1].shape.channels
    if found != classes:
        raise last.problem(f"does not decide how many classes there are: with {classes}, {found} numbers come out")
    return changed
