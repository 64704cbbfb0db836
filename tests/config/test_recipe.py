"""Recipes: the task of a config, and a description of every key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from cspdet.config.loader import dump_config
from cspdet.config.registry import Component
from cspdet.config.released import configs_dir
from cspdet.datasets.descriptor import DescriptorConfig
from cspdet.errors import ConfigError
from cspdet.inference.metadata import ModelMetadata
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, infer_task, load_recipe

DETECTOR = "model: {backbone: {name: peleenet}, neck: {name: efm}}\ndata: x.yaml\n"
CLASSIFIER = "model: {backbone: {name: peleenet}}\n"


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "c.yaml").write_text(text)
    return tmp_path / "c.yaml"


@pytest.mark.parametrize(("text", "task"), [(DETECTOR, "detection"), (CLASSIFIER, "classification")])
def test_the_task_follows_from_the_model_and_is_always_written(tmp_path, text, task):
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.task == task
    assert dump_config(recipe).startswith(f"task: {task}\n")
    assert load_recipe(write(tmp_path, dump_config(recipe))) == recipe
    assert "{" not in dump_config(recipe).replace("{}", "")  # one key per line
    assert load_recipe(write(tmp_path, f"task: {task}\n{text}")) == recipe


def test_the_task_of_a_model_in_a_file_of_its_own(tmp_path):
    (tmp_path / "model.yaml").write_text("backbone: {name: peleenet}\nneck: {name: fpn}\n")
    assert load_recipe(write(tmp_path, "model: model.yaml\ndata: x.yaml\n")).task == "detection"


def test_a_darknet_cfg_without_data_is_a_classifier_unless_a_detector_is_expected(tmp_path):
    path = write(tmp_path, "model: {name: darknet, cfg: x.cfg}\n")
    assert infer_task(path) == "classification"
    assert infer_task(path, "detection") == "detection"
    assert infer_task(write(tmp_path, "model: {name: darknet, cfg: x.cfg}\ndata: x.yaml\n")) == "detection"


def test_a_config_for_the_other_task_is_one_error(tmp_path):
    with pytest.raises(ConfigError, match=r"c.yaml: expected a detector, such as .*, found a classifier"):
        load_recipe(write(tmp_path, CLASSIFIER), task="detection")
    with pytest.raises(ConfigError, match=r"expected a classifier, .*, found a detector"):
        load_recipe(write(tmp_path, DETECTOR), task="classification")


def test_an_unknown_task_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"c.yaml:1: task: expected 'detection', found the text 'detect'"):
        load_recipe(write(tmp_path, f"task: detect\n{DETECTOR}"))


@pytest.mark.parametrize("path", sorted((configs_dir() / "classification").glob("*.yaml")), ids=lambda path: path.stem)
def test_released_classifiers_survive_a_round_trip(tmp_path, path):
    recipe = load_recipe(f"classification/{path.stem}")
    assert isinstance(recipe, ClassificationRecipe)
    assert load_recipe(write(tmp_path, dump_config(recipe))) == recipe


def models_in(annotation: Any, metadata: list[Any]) -> Iterator[type[BaseModel]]:
    """The models that a field takes: of a registry, the config of each entry."""
    components = [entry for entry in metadata if isinstance(entry, Component)]
    for entry in components:
        yield from (entry.registry.get(name) for name in entry.registry.names())
    if components:
        return
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        arguments = get_args(annotation)
        for argument in arguments:
            yield from models_in(argument, [entry for entry in arguments if isinstance(entry, Component)])


def undescribed(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    """The keys below a model that have no description, or one that is no sentence."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        if field.description is None or not field.description.endswith("."):
            yield f"{model.__name__}.{name}"
        for part in models_in(field.annotation, list(field.metadata)):
            yield from undescribed(part, seen)


def test_every_key_has_a_description():
    seen: set[type[BaseModel]] = set()
    roots = (DetectionRecipe, ClassificationRecipe, DescriptorConfig, ModelMetadata)
    assert [key for root in roots for key in undescribed(root, seen)] == []
    assert {"EFMConfig", "TimmConfig", "SimOTAConfig", "YoloLossConfig", "TensorBoardLoggerConfig"} <= {
        model.__name__ for model in seen
    }
    assert len(seen) > 35
