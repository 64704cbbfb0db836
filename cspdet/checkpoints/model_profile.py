"""Number of parameters and operations of a config or checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cspdet.checkpoints.building import build_detector, classes_from_config
from cspdet.checkpoints.loading import load_model
from cspdet.config.released import names_config
from cspdet.darknet.weights import SkipInit
from cspdet.models.bundle import Network, TaskName, check_size
from cspdet.models.profile import ModelCost, profile
from cspdet.recipe import load_recipe

# Number of classes of the published costs: COCO and ImageNet.
DEFAULT_NUM_CLASSES: dict[TaskName, int] = {"detection": 80, "classification": 1000}


@dataclass(frozen=True)
class ModelProfile:
    """Parameters and operations of a model at one input size."""

    name: str
    cost: ModelCost
    strides: tuple[int, ...]
    matches_published: bool  # whether the published costs for this name apply to this network
    program: str | None  # the program and version that wrote a checkpoint; None: a config


def profile_model(
    path: str | Path,
    overrides: Sequence[str] = (),
    size_hw: tuple[int, int] | None = None,
    num_classes: int | None = None,
    num_classes_cache: dict[Path, int] | None = None,
) -> ModelProfile:
    """Count the parameters and operations of a config or checkpoint.

    Args:
        path: A config (`.yaml`), the name of a released config, or a checkpoint.
        overrides: `key.path=value` for the config.
        size_hw: Height and width of the input; None: the input size of the config.
        num_classes: Number of classes of a detector config. None: the number of classes of its dataset, or 80 if the
            dataset does not exist.
        num_classes_cache: Cache that maps data descriptors to numbers of classes. Pass the same dict to several calls.

    Raises:
        ConfigError: There is no such config, or its network cannot be built at this size.
        CheckpointError: There is no such checkpoint, or it is corrupt.
    """
    path = Path(path)
    task, model, config_size, program = _build_model(
        path, overrides, num_classes, {} if num_classes_cache is None else num_classes_cache
    )
    size_hw = size_hw or config_size
    check_size(size_hw, model, str(path))
    is_default = model.num_classes == DEFAULT_NUM_CLASSES[task]
    changed = any(text.split("=")[0].split(".")[0] == "model" for text in overrides)
    return ModelProfile(path.stem, profile(model, size_hw), model.strides, is_default and not changed, program)


def _build_model(
    path: Path, overrides: Sequence[str], num_classes: int | None, num_classes_cache: dict[Path, int]
) -> tuple[TaskName, Network, tuple[int, int], str | None]:
    """Return the task, the network, the input size of the config, and the program that wrote a checkpoint."""
    if not names_config(path):
        bundle = load_model(path, overrides=overrides)
        return bundle.task, bundle.torch_network, bundle.config.input.size, bundle.program
    recipe = load_recipe(path, overrides)
    if recipe.task == "classification":
        with SkipInit():
            return "classification", recipe.model.build(pretrained=False), recipe.input.size, None
    if num_classes is None:
        if recipe.data not in num_classes_cache:  # a large annotation file takes many seconds to read
            num_classes_cache[recipe.data] = len(classes_from_config(recipe))
        num_classes = num_classes_cache[recipe.data]
    with SkipInit():
        model = build_detector(recipe, num_classes, str(path), pretrained=False)
    return "detection", model, recipe.input.size, None
