"""The root config of a run, with the sections model, input, data, train and eval. This module does not import torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, overload

from pydantic import Discriminator, Field, Tag

from cspdet.config.base import ConfigModel
from cspdet.config.input import InputConfig
from cspdet.config.loader import load_config, parse_config
from cspdet.config.read import read_yaml
from cspdet.config.released import default_data, find_config
from cspdet.darknet.config import DarknetClassifierConfig, DarknetModelConfig
from cspdet.errors import ConfigError
from cspdet.models.config import ClassifierConfig, ClassifierEvalConfig, DetectorConfig, EvalConfig
from cspdet.structures import MODEL_TYPES, TaskName
from cspdet.training.config import ClassifierTrainConfig, TrainConfig


def _model_type(model: Any) -> str:
    name = model.get("name") if isinstance(model, dict) else getattr(model, "name", None)
    return "darknet" if name == "darknet" else "parts"


class DetectionRecipe(ConfigModel):
    """Root config of a detector."""

    task: Literal["detection"] = Field("detection", description="Task of the model.")
    model: Annotated[
        Annotated[DetectorConfig, Tag("parts")] | Annotated[DarknetModelConfig, Tag("darknet")],
        Discriminator(_model_type),
    ] = Field(description="The network: backbone, neck and head, or `name: darknet` with a cfg.")
    input: InputConfig = Field(InputConfig(), description="The input of the network.")
    data: Path = Field(description="The data descriptor, a YAML file with the images and annotations of each split.")
    train: TrainConfig = Field(TrainConfig(), description="Training.")
    eval: EvalConfig = Field(EvalConfig(), description="Evaluation.")


class ClassificationRecipe(ConfigModel):
    """Root config of a classifier."""

    task: Literal["classification"] = Field("classification", description="Task of the model.")
    model: Annotated[
        Annotated[ClassifierConfig, Tag("parts")] | Annotated[DarknetClassifierConfig, Tag("darknet")],
        Discriminator(_model_type),
    ] = Field(description="The network: a backbone, or `name: darknet` with a cfg.")
    input: InputConfig = Field(InputConfig(size=(224, 224)), description="The input of the network.")
    data: Path | None = Field(
        None, description="The folder of train/CLASS/* and val/CLASS/*; null: the config only describes a network."
    )
    train: ClassifierTrainConfig = Field(ClassifierTrainConfig(), description="Training.")
    eval: ClassifierEvalConfig = Field(ClassifierEvalConfig(), description="Evaluation.")


Recipe = DetectionRecipe | ClassificationRecipe
RECIPE_BY_TASK: dict[str, type[Recipe]] = {"detection": DetectionRecipe, "classification": ClassificationRecipe}


@overload
def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, task: Literal["detection"]) -> DetectionRecipe: ...
@overload
def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), *, task: Literal["classification"]
) -> ClassificationRecipe: ...
@overload
def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, task: TaskName | None = None) -> Recipe: ...


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, task: TaskName | None = None) -> Recipe:
    """Read a config file and apply overrides.

    Args:
        path: A YAML file, or the name of a released config.
        overrides: `key.path=value`, applied in order.
        task: The expected task; None accepts both.

    Raises:
        ConfigError: The config is invalid (the message has one line per error), or it is for another task.
    """
    path = find_config(path)
    content = read_yaml(path)
    found = _infer_task(content[0], path.parent, task)
    if task is not None and found is not None and found != task:
        example = "csppelee_efm_sam" if task == "detection" else "classification/csppeleenet"
        raise ConfigError(f"{path}: expected {MODEL_TYPES[task]}, such as {example}, found {MODEL_TYPES[found]}")
    schema = RECIPE_BY_TASK[task or found or "detection"]
    data = default_data(path) if schema is DetectionRecipe else None
    return load_config(path, schema, overrides if data is None else [f"data={data}", *overrides], content)


def infer_task(path: Path, expected: TaskName | None = None) -> TaskName | None:
    """Return the task of a config file.

    The key `task` states the task. If the key is missing, a model with a neck or a head is a detector, and other models
    are classifiers.

    Args:
        path: The config file.
        expected: The task if `model.name` is `darknet` and the key `task` is missing. None: the task is detection if
            the config has the key `data`; if not, classification.

    Returns:
        The task, or None if the config has no valid model section.
    """
    return _infer_task(read_yaml(path)[0], path.parent, expected)


def _infer_task(values: Any, folder: Path, expected: TaskName | None) -> TaskName | None:
    if not isinstance(values, dict):
        return None
    task, model = values.get("task"), values.get("model")
    if task in ("detection", "classification"):
        return "detection" if task == "detection" else "classification"
    if isinstance(model, str) and model.endswith((".yaml", ".yml")):
        model, _ = read_yaml(folder / model)
    if not isinstance(model, dict):
        return None
    if model.get("name") == "darknet":
        return expected or ("detection" if "data" in values else "classification")
    return "detection" if "neck" in model or "head" in model else "classification"


def recipe_from_dict(
    task: str,
    values: dict[str, Any],
    where: str,
    overrides: Sequence[str] = (),
    required: Collection[str] | None = None,
) -> Recipe:
    """Build a recipe from plain values, such as the config in a checkpoint.

    Args:
        task: detection or classification.
        values: The values by key; key names of cspdet 1 are renamed.
        where: Source of the values, such as a file name, for error messages.
        overrides: `key.path=value` from the user, applied in order.
        required: The sections that must be valid. Invalid values in other sections are ignored. None: all sections.

    Raises:
        ConfigError: The values are invalid; the message has one line per error.
    """
    return parse_config(values, RECIPE_BY_TASK[task], where, overrides, required)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as a dict of JSON-compatible values; checkpoints store it in this form."""
    return recipe.model_dump(mode="json")
