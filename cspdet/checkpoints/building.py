"""Build the network of a recipe (the root config) with initial weights."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from cspdet.checkpoints.pretrained import load_backbone_weights
from cspdet.darknet.config import DarknetClassifierConfig
from cspdet.darknet.num_classes import set_num_classes
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import load_coco
from cspdet.datasets.formats.coco_format import COCO_CLASSES
from cspdet.errors import ConfigError, DataError
from cspdet.models import Classifier, Detector
from cspdet.models.bundle import Network, check_size
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, Recipe
from cspdet.structures import Categories


def build_detector(recipe: DetectionRecipe, num_classes: int, where: str, *, pretrained: bool = True) -> Detector:
    """Build the network of a detector recipe with random weights, drawn with torch's global random generator.

    Args:
        recipe: The recipe.
        num_classes: Number of classes of the head.
        where: Source of the recipe, for error messages.
        pretrained: Whether to load the pretrained weights of the config (`model.backbone.weights`, timm). Use False if
            other weights are loaded afterwards.

    Raises:
        ConfigError: Components do not fit together, or the input size is not a multiple of the strides.
    """
    try:
        model: Detector = recipe.model.build(num_classes, pretrained=pretrained)
    except ValueError as error:
        raise ConfigError(f"{where}: model: {error}") from None
    _prepare(model, recipe, where, pretrained=pretrained)
    return model


def build_classifier(recipe: ClassificationRecipe, where: str, *, pretrained: bool = True) -> Classifier:
    """Build the network of a classifier recipe; see `build_detector`."""
    try:
        model: Classifier = recipe.model.build(pretrained=pretrained)
    except ValueError as error:
        raise ConfigError(f"{where}: model: {error}") from None
    _prepare(model, recipe, where, pretrained=pretrained)
    return model


def build_network(recipe: Recipe, num_classes: int, where: str, *, pretrained: bool = True) -> Network:
    """Build the network of a detection or classification recipe; see `build_detector`.

    `num_classes` is only for a detector; the recipe of a classifier stores its number of classes.
    """
    if recipe.task == "detection":
        return build_detector(recipe, num_classes, where, pretrained=pretrained)
    return build_classifier(recipe, where, pretrained=pretrained)


def with_num_classes(recipe: Recipe, num_classes: int) -> Recipe:
    """Return a classifier recipe with another number of classes.

    A detector recipe is returned unchanged, because it does not store the number of classes.
    """
    if recipe.task == "detection":
        return recipe
    if "num_classes" in type(recipe.model).model_fields:
        change: dict[str, object] = {"num_classes": num_classes}
    else:
        model = cast(DarknetClassifierConfig, recipe.model)
        change = {"cfg": set_num_classes(model.text, num_classes, model.source)}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=change)})


def _prepare(
    model: Network, recipe: Recipe, where: str, *, pretrained: bool
) -> None:  # fmt: skip
    """Check the input size. If `pretrained`, load `model.backbone.weights`, except on the meta device."""
    check_size(recipe.input.size, model, where)
    weights: Path | None = getattr(getattr(recipe.model, "backbone", None), "weights", None)
    if pretrained and weights is not None and not next(model.parameters()).is_meta:
        load_backbone_weights(model, weights)


def classes_from_config(recipe: DetectionRecipe) -> Categories:
    """Return the classes of the train split of a recipe. If the split cannot be read, return the 80 classes of COCO.

    These classes are used for networks without trained weights.
    """
    try:
        return load_coco(load_dataset_config(recipe.data).split("train"), "train").classes
    except (DataError, ConfigError):
        return COCO_CLASSES
