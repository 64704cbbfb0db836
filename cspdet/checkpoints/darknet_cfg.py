"""Conversion of a Darknet cfg to a recipe. The recipe contains the text of the cfg."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cspdet.config.loader import parse_config
from cspdet.darknet.cfg import parse_cfg, read_cfg
from cspdet.darknet.config import remember_file
from cspdet.darknet.graph import build_graph
from cspdet.darknet.names import categories_from_count, categories_from_names
from cspdet.errors import ConfigError
from cspdet.recipe import ClassificationRecipe, DetectionRecipe
from cspdet.structures import Categories

log = logging.getLogger("cspdet")

# Default data descriptor of an imported detector, by number of classes.
DEFAULT_DATA = {80: "data/coco.yaml", 20: "data/voc.yaml"}
BN_EPS = 1e-5


def recipe_from_cfg(
    path: Path, *, names: tuple[str, ...] | None = None, bn_eps: float = BN_EPS, overrides: Sequence[str] = ()
) -> tuple[DetectionRecipe | ClassificationRecipe, Categories]:
    """Convert a Darknet cfg to a recipe. A cfg with [yolo] sections is a detector, any other cfg is a classifier.

    Args:
        path: The cfg file.
        names: Class names. None: COCO names for 80 classes, VOC names for 20 classes, else `class 1`, `class 2`, ...
        bn_eps: Epsilon of batch normalization.
        overrides: `key.path=value` for the recipe.

    Returns:
        The recipe and the classes.

    Raises:
        ConfigError: The cfg is invalid, or the number of names differs from the number of classes.
    """
    text = read_cfg(path)
    remember_file(text, path)
    cfg = parse_cfg(text, str(path))
    graph = build_graph(cfg)
    if cfg.ignored_keys:
        log.info("%s: keys without effect on the network: %s", path, _format_ignored_keys(cfg.ignored_keys))
    model = {"name": "darknet", "cfg": text, "bn_eps": bn_eps}
    resize = "letterbox" if cfg.net.get_int("letter_box", 0) else "stretch"
    values: dict[str, Any] = {"model": model, "input": {"size": list(cfg.size_hw), "resize": resize}}
    if not cfg.heads:
        categories = categories_from_cfg(graph.layers[-1].shape.channels, names, path)
        return parse_config(values, ClassificationRecipe, str(path), overrides), categories
    categories = categories_from_cfg(cfg.num_classes, names, path)
    values["data"] = DEFAULT_DATA.get(len(categories), "data.yaml")
    values["eval"] = {"clip_boxes": False}  # published APs are mostly from Darknet's `map`, which does not clip boxes
    return parse_config(values, DetectionRecipe, str(path), overrides), categories


def categories_from_cfg(count: int, names: tuple[str, ...] | None, where: Path) -> Categories:
    """Create the categories of a cfg with `count` classes; if `names` is None, use default names.

    Raises:
        ConfigError: The number of names is not `count`.
    """
    if names is None:
        return categories_from_count(count)
    if len(names) != count:
        raise ConfigError(f"--names: {len(names)} names, but {where} has {count} classes")
    return categories_from_names(names)


def _format_ignored_keys(ignored_keys: dict[str, int]) -> str:
    return ", ".join(f"{name}{f' (x{count})' if count > 1 else ''}" for name, count in ignored_keys.items())
