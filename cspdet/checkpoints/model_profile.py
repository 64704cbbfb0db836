"""A MODEL, counted: from a config or a checkpoint to the cost of its network, built on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cspdet.checkpoints.loading import build_detector, check_size, classes_of_config, load_network
from cspdet.config.loader import load_config, read_yaml
from cspdet.models import Classifier, Detector
from cspdet.models.profile import Cost, count
from cspdet.recipe import ClassifierRecipe, load_recipe

USUAL_CLASSES = {"detector": 80, "classifier": 1000}  # of the published figures: COCO's and ImageNet's


@dataclass(frozen=True)
class CountedModel:
    """What a MODEL costs at one input size."""

    name: str
    cost: Cost
    strides: tuple[int, ...]
    comparable: bool  # whether it is the network that the published figures of its name are for


def count_model(
    path: str | Path,
    overrides: Sequence[str] = (),
    size_hw: tuple[int, int] | None = None,
    classes: int | None = None,
    class_counts: dict[Path, int] | None = None,
) -> CountedModel:
    """Count a config (`.yaml`) or checkpoint at `size_hw`, or at its own input size.

    `classes` are a detector config's; None: those of its data where that is on disk, else COCO's 80. `class_counts`
    remembers them by data descriptor, for calls that share it.

    Raises:
        ConfigError, CheckpointError: no such model, or one that cannot be built at this size.
    """
    path = Path(path)
    model, own_size = _network(path, overrides, classes, {} if class_counts is None else class_counts)
    size_hw = size_hw or own_size
    check_size(size_hw, model, str(path))
    if isinstance(model, Detector):
        usual = model.classes == USUAL_CLASSES["detector"]
    else:
        usual = model.classes == USUAL_CLASSES["classifier"]
    changed = any(text.split("=")[0].split(".")[0] == "model" for text in overrides)
    return CountedModel(path.stem, count(model, size_hw), model.strides, usual and not changed)


def _network(
    path: Path, overrides: Sequence[str], classes: int | None, class_counts: dict[Path, int]
) -> tuple[Detector | Classifier, tuple[int, int]]:
    """The network, and the input size that it is meant for."""
    if path.suffix not in (".yaml", ".yml"):
        loaded = load_network(path, overrides)
        return loaded.model, loaded.recipe.input.size
    if is_classifier(path):
        recipe = load_config(path, ClassifierRecipe, overrides)
        with torch.device("meta"):
            return recipe.model.build(pretrained=False), recipe.input.size
    detector = load_recipe(path, overrides)
    if classes is None:
        if detector.data not in class_counts:  # a large annotation file takes many seconds to read
            class_counts[detector.data] = len(classes_of_config(detector))
        classes = class_counts[detector.data]
    with torch.device("meta"):
        model = build_detector(detector, classes, str(path), pretrained=False)
    return model, detector.input.size


def is_classifier(path: Path) -> bool:
    """Whether a config is a classifier's: its model has no neck, or is a Darknet cfg without data to detect on."""
    values, _ = read_yaml(path)
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict):
        return False
    return "data" not in values if model.get("name") == "darknet" else "neck" not in model
