"""Config keys of cspdet 1 in YAML files, overrides and checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cspdet.config import aliases
from cspdet.config.aliases import RENAMED_KEYS, rename_key, rename_override, upgrade_keys
from cspdet.config.loader import parse_config
from cspdet.config.read import parse_yaml
from cspdet.errors import ConfigError
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, load_recipe, recipe_from_dict, recipe_to_dict
from cspdet.training.assigners.config import AnchorIoUConfig, SimOTAConfig

# As cspdet 1 wrote `config.yaml` into a run folder; `anchors` and other keys whose names stayed are left out.
VERSION_1 = """\
model:
  backbone: {weights: null, name: csppeleenet, gamma: 0.5, fusion: both, activation: leaky, se: false}
  neck: {name: efm, width: 64, sam: true, spp: false, activation: leaky}
  head: {name: yolo, scale_x_y: [1.2, 1.1, 1.05], sizes: square}
input: {size: [416, 416], resize: letterbox}
data: x.yaml
train:
  epochs: 90
  optimizer: {learning_rate: 0.02, momentum: 0.9, nesterov: true, weight_decay: 0.0005, clip_norm: 10.0}
  schedule:
    name: cosine
    final: 0.03
    power: 4.0
    burn_in_steps: 900
    burn_in_share: 0.06
    burn_in_power: 2.0
  ema: {decay: 0.9998, share: 0.2}
  multi_scale: {low: 0.75, high: 1.25, every: 11}
  repeat_factor: 0.4
  bad_pictures: skip
  evaluate_every: 3
  save_every_minutes: 7.5
  assign:
    rule: dynamic
    match_iou: 0.213
    match_ratio: null
    neighbors: 1
    dynamic: {top: 12, radius: 3.5, iou_weight: 2.0, center_weight: 1.5}
    ignore_iou: 0.8
  loss: {box: ciou, box_weight: 5.0, objectness_goal: iou, label_smoothing: 0.0}
eval: {batch_size: 16, min_score: 0.001, max_iou: 0.55, vote_iou: null}
"""

VERSION_1_CLASSIFIER = """\
model:
  backbone: {weights: null, name: csppeleenet}
  classes: 7
train: {evaluate_every: 2, label_smoothing: 0.1}
eval: {resize: null, crop: 0.887}
"""


@pytest.fixture(autouse=True)
def fresh_notice(monkeypatch):
    """Each test may get the notice that a process gives once."""
    monkeypatch.setattr(aliases, "_notice_given", [])


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "c.yaml").write_text(text)
    return tmp_path / "c.yaml"


def assert_values_of_version_1(recipe: DetectionRecipe) -> None:
    train = recipe.train
    assert recipe.model.head.wh_decoding == "square"
    assert train.schedule.final_lr_ratio == 0.03
    warmup = (train.schedule.warmup_steps, train.schedule.warmup_max_fraction, train.schedule.warmup_power)
    assert warmup == (900, 0.06, 2.0)
    assert (train.ema.window_fraction, train.multi_scale.interval, train.repeat_threshold) == (0.2, 11, 0.4)
    assert (train.on_bad_image, train.eval_interval, train.checkpoint_interval_minutes) == ("skip", 3, 7.5)
    assert train.assigner == SimOTAConfig(
        candidate_topk=12, radius=3.5, iou_weight=2.0, center_weight=1.5, ignore_iou=0.8
    )
    assert train.loss.objectness_target == "iou"
    assert recipe.eval.nms_iou == 0.55


def test_a_yaml_file_of_version_1_is_read(tmp_path):
    assert_values_of_version_1(load_recipe(write(tmp_path, VERSION_1)))


def test_a_classifier_of_version_1_is_read(tmp_path):
    recipe = load_recipe(write(tmp_path, VERSION_1_CLASSIFIER))
    assert isinstance(recipe, ClassificationRecipe)
    assert (recipe.model.num_classes, recipe.train.eval_interval) == (7, 2)


@pytest.mark.parametrize(("text", "task"), [(VERSION_1, "detection"), (VERSION_1_CLASSIFIER, "classification")])
def test_the_config_of_a_checkpoint_of_version_1_is_read(tmp_path, monkeypatch, text, task):
    monkeypatch.chdir(tmp_path)
    values, _ = parse_yaml(text, "text")
    before = str(values)
    recipe = recipe_from_dict(task, values, "best.pt")
    assert recipe == load_recipe(write(tmp_path, text)).model_copy(update={"data": recipe.data})
    assert str(values) == before, "the checkpoint's own values stay as they are"
    again = recipe_from_dict(task, recipe_to_dict(recipe), "best.pt")
    assert again == recipe


def test_the_static_rule_of_version_1_is_the_anchor_iou_assigner(tmp_path):
    text = VERSION_1.replace("rule: dynamic", "rule: static").replace("neighbors: 1", "neighbors: 3")
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.train.assigner == AnchorIoUConfig(match_iou=0.213, neighbors=3, ignore_iou=0.8)
    short = load_recipe(write(tmp_path, VERSION_1.split("  assign:")[0] + "  assign: {match_ratio: 4.0}\n"))
    assert short.train.assigner == AnchorIoUConfig(match_ratio=4.0)


def test_a_section_file_of_version_1_is_read(tmp_path):
    (tmp_path / "train.yaml").write_text("evaluate_every: 5\nassign: {match_iou: 0.3}\nschedule: {final: 0.5}\n")
    model = "model: {backbone: {name: peleenet}, neck: {name: efm}}\ndata: x.yaml\n"
    train = load_recipe(write(tmp_path, f"{model}train: train.yaml\n")).train
    assert (train.eval_interval, train.assigner.match_iou, train.schedule.final_lr_ratio) == (5, 0.3, 0.5)


def test_overrides_of_version_1_are_read(tmp_path):
    path = write(tmp_path, VERSION_1.replace("rule: dynamic", "rule: static"))
    overrides = [
        "train.evaluate_every=5", "eval.max_iou=0.7", "train.schedule={final: 0.5}", "train.assign.rule=dynamic",
        "train.assign.dynamic.top=8", "train.ema.share=0.3",
    ]  # fmt: skip
    recipe = load_recipe(path, overrides)
    assert (recipe.train.eval_interval, recipe.eval.nms_iou, recipe.train.ema.window_fraction) == (5, 0.7, 0.3)
    assert recipe.train.schedule.final_lr_ratio == 0.5
    assert (recipe.train.assigner.name, recipe.train.assigner.candidate_topk) == ("simota", 8)
    checkpoint = recipe_to_dict(load_recipe(path))
    assert parse_config(checkpoint, DetectionRecipe, "last.pt", overrides[:2]).train.eval_interval == 5


def test_errors_name_the_new_key_at_the_line_of_the_old_one(tmp_path):
    text = VERSION_1.replace("evaluate_every: 3", "evaluate_every: 0").replace("top: 12", "top: 0")
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, text), ["eval.max_iou=2"])
    line = 1 + text.splitlines().index("  evaluate_every: 0")
    assert f"{tmp_path}/c.yaml:{line}: train.eval_interval: expected greater than or equal to 1, found 0" in str(
        caught.value
    )
    assert "train.assigner.candidate_topk: expected greater than or equal to 1, found 0" in str(caught.value)
    assert "override 'eval.max_iou=2': eval.nms_iou: expected less than or equal to 1, found 2" in str(caught.value)


def test_an_old_and_a_new_name_together_are_an_error(tmp_path):
    text = VERSION_1.replace("evaluate_every: 3", "evaluate_every: 3\n  eval_interval: 2")
    with pytest.raises(ConfigError, match=r"c.yaml:\d+: train.evaluate_every: unknown key"):
        load_recipe(write(tmp_path, text))


def test_a_typo_in_a_section_of_version_1_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"train.assigner.match_iuo: unknown key"):
        load_recipe(write(tmp_path, VERSION_1.replace("match_iou", "match_iuo")))


def test_the_notice_comes_once_and_names_old_and_new_keys(tmp_path, caplog):
    path = write(tmp_path, VERSION_1)
    with caplog.at_level(logging.INFO, "cspdet"):
        load_recipe(path, ["train.evaluate_every=5"])
        load_recipe(path)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith(f"{path}: uses key names of cspdet 1: ")
    assert "train.evaluate_every is now train.eval_interval" in record.message


def test_configs_of_today_get_no_notice(tmp_path, caplog):
    recipe = load_recipe("csppelee_efm_sam", ["train.assigner.name=simota"])
    assert recipe_from_dict("detection", recipe_to_dict(recipe), "x.pt") == recipe
    assert not caplog.records


def test_every_new_key_is_a_key_of_a_recipe_or_of_exported_metadata():
    schema = {"detection": DetectionRecipe.model_fields, "classification": ClassificationRecipe.model_fields}
    assert schema["detection"].keys() >= {key.split(".")[0] for key in RENAMED_KEYS} - {"head", "nms"}
    for new in RENAMED_KEYS.values():
        assert rename_key(tuple(new.split("."))) == tuple(new.split(".")), "a new name is no old one"


def test_task_names_are_renamed(tmp_path):
    assert load_recipe(write(tmp_path, f"task: detector\n{VERSION_1}")).task == "detection"
    assert load_recipe(write(tmp_path, f"task: classifier\n{VERSION_1_CLASSIFIER}")).task == "classification"


def test_overrides_are_renamed_with_their_sections():
    assert rename_override("train.assign.dynamic.top=3") == "train.assigner.candidate_topk=3"
    assert rename_override("train.schedule.final=0.1") == "train.schedule.final_lr_ratio=0.1"
    assert rename_override("train.epochs=a.b=c") == "train.epochs=a.b=c"
    assert upgrade_keys({"train": 3, "eval": None}, {}) == {}
