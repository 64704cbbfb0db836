"""Number of parameters and operations of a config or checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cspdet.checkpoints.building import build_detector, classes_from_config
from cspdet.checkpoints.loading import load_model
from cspdet.config.released import names_config
from cspdet.darknet.weights import SkipInit
from cspdet.io.safetensors_file import read_metadata, weights_sha256
from cspdet.models.bundle import ModelBundle, Network, TaskName, check_size
from cspdet.models.profile import ModelCost, profile
from cspdet.recipe import Recipe, load_recipe, recipe_to_dict
from cspdet.zoo.cache import resolve_model

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
    metadata: dict[str, Any] | None  # the metadata of a checkpoint as JSON types; None: a config


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
    task, model, config_size, bundle = _build_model(
        path, overrides, num_classes, {} if num_classes_cache is None else num_classes_cache
    )
    size_hw = size_hw or config_size
    check_size(size_hw, model, str(path))
    is_default = model.num_classes == DEFAULT_NUM_CLASSES[task]
    changed = any(text.split("=")[0].split(".")[0] == "model" for text in overrides)
    program, metadata = (None, None) if bundle is None else (bundle.program, file_metadata(path, bundle))
    return ModelProfile(
        path.stem, profile(model, size_hw), model.strides, is_default and not changed, program, metadata
    )  # fmt: skip


def file_metadata(path: Path, bundle: ModelBundle) -> dict[str, Any]:
    """Return the metadata of a checkpoint as JSON types: file, task, classes, facts, config, SHA-256 of the weights.

    Args:
        path: The checkpoint, the folder of a run, or the name of a downloaded model.
        bundle: The loaded checkpoint.
    """
    path = resolve_model(path)
    precision = read_metadata(path).get("precision", "fp32") if path.suffix == ".safetensors" else "fp32"
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "precision": precision,
        "task": bundle.task,
        "class_names": list(bundle.categories.names),
        "category_ids": list(bundle.categories.category_ids),
        **bundle.info.to_json(),
        "program": bundle.program,
        "weights_sha256": weights_sha256(bundle.torch_network.state_dict()),
        "config": recipe_to_dict(cast(Recipe, bundle.config)),
    }


def _build_model(
    path: Path, overrides: Sequence[str], num_classes: int | None, num_classes_cache: dict[Path, int]
) -> tuple[TaskName, Network, tuple[int, int], ModelBundle | None]:
    """Return the task, the network, the input size of the config, and the bundle of a checkpoint."""
    if not names_config(path):
        bundle = load_model(path, overrides=overrides)
        return bundle.task, bundle.torch_network, bundle.config.input.size, bundle if bundle.program else None
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
