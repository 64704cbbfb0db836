"""MODEL, as every command takes it: a checkpoint, or a config with or without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cspdet.checkpoints.pretrained import DARKNET_FILE, load_backbone_weights
from cspdet.config.loader import load_config, parse_config, read_yaml
from cspdet.darknet.names import classes_by_count
from cspdet.darknet.weight_order import numbers_of
from cspdet.darknet.weights import read_weights
from cspdet.datasets.coco_classes import COCO_CLASSES
from cspdet.datasets.descriptor import load_descriptor
from cspdet.datasets.formats.coco import load_coco
from cspdet.errors import CheckpointError, ConfigError, DataError
from cspdet.io.checkpoint import Checkpoint, load_checkpoint, load_weights
from cspdet.models import Classifier, ClassifierConfig, Detector
from cspdet.recipe import ClassifierRecipe, Recipe, load_recipe, recipe_to_plain
from cspdet.structures import Classes


@dataclass(frozen=True)
class LoadedModel:
    """A detector in evaluation mode on the CPU, with what it was trained for."""

    model: Detector
    recipe: Recipe
    classes: Classes
    name: str


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier in evaluation mode on the CPU, with what it was trained for."""

    model: Classifier
    recipe: ClassifierRecipe
    classes: Classes
    name: str


def load_model(path: str | Path, *, weights: str | Path | None = None, overrides: Sequence[str] = ()) -> LoadedModel:
    """Load a MODEL: `.pt` with its own config, or `.yaml` with `weights` (a `.pt`) or random ones (seeded).

    Overrides apply to a config, and to a checkpoint's own config where the network stays the same.

    Raises:
        CheckpointError, ConfigError: with what was expected and found.
    """
    path = Path(path)
    if path.suffix in (".yaml", ".yml"):
        recipe = load_recipe(path, overrides)
        if weights is None:
            classes = classes_of_config(recipe)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.train.seed)
                model = build_detector(recipe, len(classes), str(path))
            return LoadedModel(model.eval(), recipe, classes, path.stem)
        return _with_weights(recipe, load_checkpoint(weights), str(weights), path.stem)
    if weights is not None and path.is_file():
        raise CheckpointError(f"{path}: a checkpoint brings its own weights; --weights goes with a config (.yaml)")
    loaded = load_network(path, overrides)
    if isinstance(loaded, LoadedClassifier):
        raise CheckpointError(f"{path}: holds a classifier; expected a detector")
    return loaded


def load_network(path: str | Path, overrides: Sequence[str] = ()) -> LoadedModel | LoadedClassifier:
    """Load a checkpoint (`.pt`) of either kind.

    Raises:
        CheckpointError, ConfigError: with what was expected and found.
    """
    path = Path(path)
    if path.suffix != ".pt" and not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint (.pt) or a config (.yaml)")
    checkpoint = load_checkpoint(path)
    if isinstance(checkpoint.recipe, Recipe):
        return _with_weights(_overridden(checkpoint.recipe, overrides), checkpoint, str(path), path.stem)
    recipe = checkpoint.recipe
    if overrides:
        recipe = parse_config(recipe_to_plain(recipe), ClassifierRecipe, "the checkpoint's config", overrides)
    return _classifier_with_weights(recipe, checkpoint, str(path), path.stem)


def load_classifier_model(
    path: str | Path, *, weights: str | Path | None = None, overrides: Sequence[str] = ()
) -> LoadedClassifier:
    """As `load_model`, for a classifier; `weights` may also be Darknet's, of the network that the config is for.

    Classes without names are called by their numbers.

    Raises:
        CheckpointError, ConfigError: with what was expected and found.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        loaded = load_any_model(path, weights=weights, overrides=overrides)
        if isinstance(loaded, LoadedModel):
            raise CheckpointError(f"{path}: holds a detector; expected a classifier")
        return loaded
    if _describes_detector(path):
        raise ConfigError(f"{path}: describes a detector; expected a classifier, as in configs/classification")
    recipe = load_config(path, ClassifierRecipe, overrides)
    if weights is not None and not DARKNET_FILE.search(str(weights)):
        checkpoint = load_checkpoint(weights)
        if isinstance(checkpoint.recipe, Recipe):
            raise CheckpointError(f"{weights}: holds a detector; expected a classifier")
        return _classifier_with_weights(_for_classes(recipe, checkpoint.classes), checkpoint, str(weights), path.stem)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        classifier = build_classifier(recipe, str(path), pretrained=weights is None)
    if weights is not None:
        try:
            layers = numbers_of(classifier)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}, so there are no weights of Darknet's for this network") from None
        read_weights(weights, layers)
    return LoadedClassifier(classifier.eval(), recipe, classes_by_count(classifier.classes), path.stem)


def load_any_model(
    path: str | Path, *, weights: str | Path | None = None, overrides: Sequence[str] = ()
) -> LoadedModel | LoadedClassifier:
    """A detector or a classifier, whichever `path` is; errors as of `load_model` and `load_classifier_model`."""
    path = Path(path)
    if path.suffix in (".yaml", ".yml"):
        return (load_model if _describes_detector(path) else load_classifier_model)(
            path, weights=weights, overrides=overrides
        )
    if weights is not None and path.is_file():
        raise CheckpointError(f"{path}: a checkpoint brings its own weights; --weights goes with a config (.yaml)")
    return load_network(path, overrides)


def _describes_detector(path: Path) -> bool:
    """Whether a config's model has a neck."""
    values, _ = read_yaml(path)
    model = values.get("model") if isinstance(values, dict) else None
    return isinstance(model, dict) and "neck" in model


def _for_classes(recipe: ClassifierRecipe, classes: Classes) -> ClassifierRecipe:
    """The config for as many classes as the weights have; that of a cfg says itself how many it has."""
    if not isinstance(recipe.model, ClassifierConfig):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"classes": len(classes)})})


def _classifier_with_weights(
    recipe: ClassifierRecipe, checkpoint: Checkpoint, source: str, name: str
) -> LoadedClassifier:
    classifier = build_classifier(recipe, source, pretrained=False)
    load_weights(classifier, checkpoint.weights, source)
    return LoadedClassifier(classifier.eval(), recipe, checkpoint.classes, name)


def _with_weights(recipe: Recipe, checkpoint: Checkpoint, source: str, name: str) -> LoadedModel:
    model = build_detector(recipe, len(checkpoint.classes), source, pretrained=False)
    load_weights(model, checkpoint.weights, source)
    return LoadedModel(model.eval(), recipe, checkpoint.classes, name)


def build_detector(recipe: Recipe, classes: int, where: str, *, pretrained: bool = True) -> Detector:
    """The network of a recipe; parts that do not fit, or an input that its strides do not divide, are a ConfigError.

    pretrained=False leaves out the weights that the config may ask for (`model.backbone.weights`, timm's), since others
    will replace them.
    """
    try:
        model: Detector = recipe.model.build(classes, pretrained=pretrained)
    except ValueError as error:
        raise ConfigError(f"{where}: model: {error}") from None
    check_size(recipe.input.size, model, where)
    if pretrained:
        _start_backbone(model, recipe)
    return model


def build_classifier(recipe: ClassifierRecipe, where: str, *, pretrained: bool = True) -> Classifier:
    """As `build_detector`, for a classifier."""
    try:
        model: Classifier = recipe.model.build(pretrained=pretrained)
    except ValueError as error:
        raise ConfigError(f"{where}: model: {error}") from None
    check_size(recipe.input.size, model, where)
    if pretrained:
        _start_backbone(model, recipe)
    return model


def _start_backbone(model: Detector | Classifier, recipe: Recipe | ClassifierRecipe) -> None:
    """Obey `model.backbone.weights`; on the meta device there is nothing to fill."""
    backbone = getattr(recipe.model, "backbone", None)
    weights: Path | None = getattr(backbone, "weights", None)
    if weights is not None and not next(model.parameters()).is_meta:
        load_backbone_weights(model, weights)


def check_size(size_hw: tuple[int, int], model: Detector | Classifier, where: str) -> None:
    """Raise ConfigError unless the network takes pictures of this size."""
    try:
        model.check_size(size_hw)
    except ValueError as error:
        raise ConfigError(f"{where}: input.size: {error}") from None


def classes_of_config(recipe: Recipe) -> Classes:
    """The classes of the recipe's data where it is on disk, else COCO's 80: for networks without trained weights."""
    try:
        return load_coco(load_descriptor(recipe.data).split("train"), "train").classes
    except (DataError, ConfigError):
        return COCO_CLASSES


def _overridden(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    if not overrides:
        return recipe
    return parse_config(recipe_to_plain(recipe), Recipe, "the checkpoint's config", overrides)
