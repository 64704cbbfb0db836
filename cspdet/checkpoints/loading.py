"""MODEL, as every command takes it: a checkpoint, or a config with or without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cspdet.checkpoints.pretrained import DARKNET_FILE, load_backbone_weights
from cspdet.config.loader import load_config, parse_config, read_yaml
from cspdet.darknet.names import categories_from_count
from cspdet.darknet.weight_order import layers_in_file_order
from cspdet.darknet.weights import read_weights
from cspdet.datasets.coco_classes import COCO_CLASSES
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import load_coco
from cspdet.errors import CheckpointError, ConfigError, DataError
from cspdet.io.checkpoint import Checkpoint, load_checkpoint, load_weights
from cspdet.models import Classifier, ClassifierConfig, Detector
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, load_recipe, recipe_to_dict
from cspdet.structures import Categories


@dataclass(frozen=True)
class LoadedDetector:
    """A detector in evaluation mode on the CPU, with what it was trained for."""

    model: Detector
    recipe: DetectionRecipe
    classes: Categories
    name: str


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier in evaluation mode on the CPU, with what it was trained for."""

    model: Classifier
    recipe: ClassificationRecipe
    classes: Categories
    name: str


def load_detector_model(
    path: str | Path, *, weights: str | Path | None = None, overrides: Sequence[str] = ()
) -> LoadedDetector:
    """Load a MODEL: `.pt` with its own config, or `.yaml` with `weights` (a `.pt`) or random ones (seeded).

    Overrides apply to a config, and to a checkpoint's own config where the network stays the same.

    Raises:
        CheckpointError, ConfigError: with what was expected and found.
    """
    path = Path(path)
    if path.suffix in (".yaml", ".yml"):
        recipe = load_recipe(path, overrides)
        if weights is None:
            classes = classes_from_config(recipe)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.train.seed)
                model = build_detector(recipe, len(classes), str(path))
            return LoadedDetector(model.eval(), recipe, classes, path.stem)
        return _detector_with_weights(recipe, load_checkpoint(weights), str(weights), path.stem)
    if weights is not None and path.is_file():
        raise CheckpointError(f"{path}: a checkpoint brings its own weights; --weights goes with a config (.yaml)")
    loaded = load_checkpoint_model(path, overrides)
    if isinstance(loaded, LoadedClassifier):
        raise CheckpointError(f"{path}: holds a classifier; expected a detector")
    return loaded


def load_checkpoint_model(path: str | Path, overrides: Sequence[str] = ()) -> LoadedDetector | LoadedClassifier:
    """Load a checkpoint (`.pt`) of either kind.

    Raises:
        CheckpointError, ConfigError: with what was expected and found.
    """
    path = Path(path)
    if path.suffix != ".pt" and not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a checkpoint (.pt) or a config (.yaml)")
    checkpoint = load_checkpoint(path)
    if isinstance(checkpoint.recipe, DetectionRecipe):
        return _detector_with_weights(_apply_overrides(checkpoint.recipe, overrides), checkpoint, str(path), path.stem)
    recipe = checkpoint.recipe
    if overrides:
        recipe = parse_config(recipe_to_dict(recipe), ClassificationRecipe, "the checkpoint's config", overrides)
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
        loaded = load_model(path, weights=weights, overrides=overrides)
        if isinstance(loaded, LoadedDetector):
            raise CheckpointError(f"{path}: holds a detector; expected a classifier")
        return loaded
    if _is_detector_config(path):
        raise ConfigError(f"{path}: describes a detector; expected a classifier, as in configs/classification")
    recipe = load_config(path, ClassificationRecipe, overrides)
    if weights is not None and not DARKNET_FILE.search(str(weights)):
        checkpoint = load_checkpoint(weights)
        if isinstance(checkpoint.recipe, DetectionRecipe):
            raise CheckpointError(f"{weights}: holds a detector; expected a classifier")
        return _classifier_with_weights(
            _with_num_classes(recipe, checkpoint.classes), checkpoint, str(weights), path.stem
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        classifier = build_classifier(recipe, str(path), pretrained=weights is None)
    if weights is not None:
        try:
            layers = layers_in_file_order(classifier)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}, so there are no weights of Darknet's for this network") from None
        read_weights(weights, layers)
    return LoadedClassifier(classifier.eval(), recipe, categories_from_count(classifier.num_classes), path.stem)


def load_model(
    path: str | Path, *, weights: str | Path | None = None, overrides: Sequence[str] = ()
) -> LoadedDetector | LoadedClassifier:
    """A detector or a classifier, whichever `path` is; errors as of `load_model` and `load_classifier_model`."""
    path = Path(path)
    if path.suffix in (".yaml", ".yml"):
        return (load_detector_model if _is_detector_config(path) else load_classifier_model)(
            path, weights=weights, overrides=overrides
        )
    if weights is not None and path.is_file():
        raise CheckpointError(f"{path}: a checkpoint brings its own weights; --weights goes with a config (.yaml)")
    return load_checkpoint_model(path, overrides)


def _is_detector_config(path: Path) -> bool:
    """Whether a config's model has a neck."""
    values, _ = read_yaml(path)
    model = values.get("model") if isinstance(values, dict) else None
    return isinstance(model, dict) and "neck" in model


def _with_num_classes(recipe: ClassificationRecipe, classes: Categories) -> ClassificationRecipe:
    """The config for as many classes as the weights have; that of a cfg says itself how many it has."""
    if not isinstance(recipe.model, ClassifierConfig):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"num_classes": len(classes)})})


def _classifier_with_weights(
    recipe: ClassificationRecipe, checkpoint: Checkpoint, source: str, name: str
) -> LoadedClassifier:
    classifier = build_classifier(recipe, source, pretrained=False)
    load_weights(classifier, checkpoint.weights, source)
    return LoadedClassifier(classifier.eval(), recipe, checkpoint.classes, name)


def _detector_with_weights(recipe: DetectionRecipe, checkpoint: Checkpoint, source: str, name: str) -> LoadedDetector:
    model = build_detector(recipe, len(checkpoint.classes), source, pretrained=False)
    load_weights(model, checkpoint.weights, source)
    return LoadedDetector(model.eval(), recipe, checkpoint.classes, name)


def build_detector(recipe: DetectionRecipe, num_classes: int, where: str, *, pretrained: bool = True) -> Detector:
    """The network of a recipe; parts that do not fit, or an input that its strides do not divide, are a ConfigError.

    pretrained=False leaves out the weights that the config may ask for (`model.backbone.weights`, timm's), since others
    will replace them.
    """
    try:
        model: Detector = recipe.model.build(num_classes, pretrained=pretrained)
    except ValueError as error:
        raise ConfigError(f"{where}: model: {error}") from None
    check_size(recipe.input.size, model, where)
    if pretrained:
        _load_backbone_weights(model, recipe)
    return model


def build_classifier(recipe: ClassificationRecipe, where: str, *, pretrained: bool = True) -> Classifier:
    """As `build_detector`, for a classifier."""
    try:
        model: Classifier = recipe.model.build(pretrained=pretrained)
    except ValueError as error:
        raise ConfigError(f"{where}: model: {error}") from None
    check_size(recipe.input.size, model, where)
    if pretrained:
        _load_backbone_weights(model, recipe)
    return model


def _load_backbone_weights(model: Detector | Classifier, recipe: DetectionRecipe | ClassificationRecipe) -> None:
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


def classes_from_config(recipe: DetectionRecipe) -> Categories:
    """The classes of the recipe's data where it is on disk, else COCO's 80: for networks without trained weights."""
    try:
        return load_coco(load_dataset_config(recipe.data).split("train"), "train").classes
    except (DataError, ConfigError):
        return COCO_CLASSES


def _apply_overrides(recipe: DetectionRecipe, overrides: Sequence[str]) -> DetectionRecipe:
    if not overrides:
        return recipe
    return parse_config(recipe_to_dict(recipe), DetectionRecipe, "the checkpoint's config", overrides)
