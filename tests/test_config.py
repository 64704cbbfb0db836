"""Strict configs: every error is reported with its location, all together; valid configs survive a round trip."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from cspdet.config.loader import dump_config, load_config
from cspdet.errors import ConfigError
from cspdet.recipe import DetectionRecipe, load_recipe

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "configs/csppelee_efm_sam.yaml"

TEXT = """\
model:
  backbone: {name: csppeleenet}
  neck: {name: efm, sam: true}
data: coco.yaml
train:
  epochs: 3
  batch_size: 4
"""


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    """What is wrong with a config of this text, a line each, without the folder."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("batch_size", "batch_sise", "c.yaml:7: train.batch_sise: unknown key (did you mean 'batch_size'?); "),
        ("epochs: 3", "epochs: '3'", "c.yaml:6: train.epochs: expected a whole number, found the text '3'"),
        ("epochs: 3", "epochs: 3.5", "c.yaml:6: train.epochs: expected a whole number, found 3.5"),
        ("epochs: 3", "epochs: true", "c.yaml:6: train.epochs: expected a whole number, found true"),
        ("epochs: 3", "epochs: 0", "c.yaml:6: train.epochs: expected greater than or equal to 1, found 0"),
        ("sam: true", "sam: yes", "c.yaml:3: model.neck.sam: expected true or false, found the text 'yes'"),
        ("data: coco.yaml\n", "", "c.yaml: data: missing key"),
        ("train:", "input: {size: [96]}\ntrain:", "c.yaml:5: input.size: expected at least 2 values, found 1"),
        ("train:", "input: {size: [9, 9, 9]}\ntrain:", "c.yaml:5: input.size: expected 2 values, found 3"),
        ("name: efm", "name: emf", "c.yaml:3: model.neck.name: unknown neck 'emf' (did you mean 'efm'?); valid: "),
        ("epochs: 3", "epochs: 3\n  epochs: 4", "c.yaml:7: duplicate key 'epochs'; write it once"),
        ("epochs: 3", "epochs: .nan", "c.yaml:6: train.epochs: "),
        ("train:", "train: [1, 2]\ntrian:", "c.yaml:6: trian: unknown key (did you mean 'train'?)"),
    ],
)  # fmt: skip
def test_each_error_is_reported_with_its_line(tmp_path, old, new, expected):
    assert old in TEXT
    found = problems(tmp_path, TEXT.replace(old, new))
    assert any(line.startswith(expected) for line in found), found


def test_all_errors_are_reported_together(tmp_path):
    text = TEXT.replace("batch_size", "batch_sise").replace("epochs: 3", "epochs: x").replace("sam:", "smm:")
    found = problems(tmp_path, text, "input.size=100.5", "eval.nms_iou=2")
    places = [line.split(": ")[1] for line in found]
    # the override's place is told by the override
    assert {"model.neck.smm", "train.epochs", "train.batch_sise"} <= set(places)
    assert any(line.startswith("override 'input.size=100.5': input.size: ") for line in found)
    assert any(line.startswith("override 'eval.nms_iou=2': eval.nms_iou: ") for line in found)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "[1, 2]", "just words", "a: [1", "a: b: c", "\t- x", "\x00", "[" * 800]
)
def test_a_file_that_is_no_mapping_is_one_clear_error(tmp_path, text):
    (line,) = problems(tmp_path, text)
    assert line.startswith("c.yaml")
    assert len(line) < 200


def test_a_missing_file_offers_the_nearest_one():
    with pytest.raises(
        ConfigError, match=r"csppelee_efm_smm.yaml: no such file \(did you mean 'csppelee_efm_sam.yaml'\?\)"
    ):
        load_recipe(ROOT / "configs/csppelee_efm_smm.yaml")


def test_bytes_that_are_no_text_are_an_error(tmp_path):
    (tmp_path / "c.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match=r"c\.yaml:1: not UTF-8 text: found the byte 0x80"):
        load_recipe(tmp_path / "c.yaml")


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    (tmp_path / "c.yaml").write_text(TEXT + "  optimizer: {learning_rate: 1e-3}\n")
    assert load_recipe(tmp_path / "c.yaml").train.optimizer.learning_rate == 0.001


def test_overrides_apply_in_order_and_a_section_may_be_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(SHIPPED, ["train.epochs=7", "train=configs/train/paper.yaml", "train.batch_size=2"])
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.train.loss.box) == (271, 2, "mse")
    assert load_recipe(SHIPPED).train.loss.box == "ciou"


def test_an_error_in_a_section_file_names_that_file(tmp_path):
    (tmp_path / "recipe.yaml").write_text("epochs: 3\nepohcs: 4\n")
    (tmp_path / "c.yaml").write_text(TEXT.split("train:")[0] + "train: recipe.yaml\n")
    with pytest.raises(ConfigError, match=r"recipe.yaml:2: train.epohcs: unknown key \(did you mean 'epochs'\?\)"):
        load_recipe(tmp_path / "c.yaml")


def test_an_override_may_reach_into_a_section_that_was_off():
    assert load_recipe(SHIPPED, ["train.multi_scale.low=0.5"]).train.multi_scale.low == 0.5


@pytest.mark.parametrize("word", ["epochs", "=3", "train..epochs=3", "train.epochs.x=3", "train.epochs=[1"])
def test_a_malformed_override_is_named(tmp_path, word):
    assert any(f"override '{word}'" in line for line in problems(tmp_path, TEXT, word))


def test_paths_follow_the_file_or_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(TEXT)
    monkeypatch.chdir(ROOT)
    assert load_recipe(tmp_path / "c.yaml").data == tmp_path / "coco.yaml"
    assert load_recipe(tmp_path / "c.yaml", ["data=data/shapes.yaml"]).data == ROOT / "data/shapes.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_survive_a_round_trip(tmp_path, path):
    recipe = load_recipe(path)
    (tmp_path / "again.yaml").write_text(dump_config(recipe))
    assert load_config(tmp_path / "again.yaml", DetectionRecipe) == recipe


def test_null_switches_a_section_off():
    assert load_recipe(SHIPPED, ["train.ema=null", "train.optimizer.clip_norm=null"]).train.ema is None


def test_a_rule_between_keys_blames_the_key(tmp_path):
    (line,) = problems(tmp_path, TEXT, "model.head.scale_x_y=[1,2]")
    assert line.endswith("model.head.scale_x_y: expected 3 values, one per scale; found 2")


def every_key(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all sections of the schema that have keys."""
    found = [prefix]
    for name, field in model.model_fields.items():
        union = isinstance(field.annotation, UnionType)
        options = get_args(field.annotation) if union else (field.annotation,)
        for option in options:
            if isinstance(option, type) and get_origin(option) is None and issubclass(option, BaseModel):
                found += every_key(option, (*prefix, name))
    return found


@settings(max_examples=40)
@given(section=st.sampled_from(every_key(DetectionRecipe)), key=st.from_regex(r"[a-z]{3,8}_x{3}", fullmatch=True))
def test_an_unknown_key_anywhere_is_an_error_that_names_it(section, key):
    where = ".".join((*section, key))
    with pytest.raises(ConfigError) as caught:
        load_recipe(SHIPPED, [f"{where}=1"])
    assert any(f"{where}: unknown key" in problem for problem in caught.value.problems)
