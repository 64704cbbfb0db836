"""Released configs by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cspdet.config.released import configs_dir, find_config, names_config, released_configs
from cspdet.errors import ConfigError
from cspdet.recipe import load_recipe


def test_a_bare_name_is_a_released_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("csppelee_efm_sam") == configs_dir() / "csppelee_efm_sam.yaml"
    assert find_config("classification/darknet53") == configs_dir() / "classification/darknet53.yaml"


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("csppelee_efm_sam").write_text("x: 1\n")
    assert find_config("csppelee_efm_sam") == Path("csppelee_efm_sam")


def test_a_path_stays_a_path(tmp_path):
    assert find_config("mine.yaml") == Path("mine.yaml")
    assert find_config(tmp_path / "mine.yml") == tmp_path / "mine.yml"


def test_the_path_in_a_checkout_stands_for_the_released_config_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/yolov3.yaml") == configs_dir() / "yolov3.yaml"
    assert find_config("configs/mine.yaml") == Path("configs/mine.yaml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/yolov3.yaml").touch()
    assert find_config("configs/yolov3.yaml") == Path("configs/yolov3.yaml")


def test_a_copy_of_any_released_config_is_that_config_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, config in released_configs().items():
        if config.is_section:
            assert config.editable_copy() == config.path.read_text(encoding="utf-8")
            continue
        copy = tmp_path / f"{config.path.stem}.yaml"
        copy.write_text(config.editable_copy(), encoding="utf-8")
        expected = load_recipe(name)
        data = tmp_path / "data/coco/coco.yaml" if expected.task == "detection" else None
        assert load_recipe(copy) == expected.model_copy(update={"data": data}), name


def test_a_released_section_file_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train/paper.yaml", "configs/train/paper.yaml"):
        assert load_recipe("csppelee_efm_sam", [f"train={name}"]).train.loss.box == "mse"
    (tmp_path / "train").mkdir()
    (tmp_path / "train/paper.yaml").write_text("loss: {box: giou}\n")
    assert load_recipe("csppelee_efm_sam", ["train=train/paper.yaml"]).train.loss.box == "giou"
    with pytest.raises(ConfigError, match=r"train/papper.yaml: no such file \(did you mean 'paper.yaml'\?\)"):
        load_recipe("csppelee_efm_sam", ["train=train/papper.yaml"])


def test_configs_and_files_of_weights_are_distinguished(tmp_path):
    (tmp_path / "weights").write_bytes(b"")
    assert [names_config(name) for name in ("x.yaml", "x.yml", "csppelee_efm", tmp_path / "nothing")] == [True] * 4
    assert [names_config(name) for name in ("x.pt", "x.onnx", tmp_path / "weights")] == [False] * 3


@pytest.mark.parametrize("name", ["csppelee_efm_smm", "paper", "train/paper"])
def test_an_unknown_name_is_an_error(name):
    with pytest.raises(ConfigError, match=f"^{name}: no such file, and no released config of this name"):
        find_config(name)
    with pytest.raises(ConfigError, match=r"did you mean 'csppelee_efm_sam'"):
        find_config("csppelee_efm_smm")
    with pytest.raises(ConfigError, match=r"did you mean 'classification/csppeleenet'"):
        find_config("csppeleenet")
    with pytest.raises(ConfigError, match=r"^yolov3.yaml: no such file \(the released config is 'yolov3'\)"):
        find_config("yolov3.yaml")


def test_an_installed_package_brings_the_configs(tmp_path):
    """Built as for a wheel, and used far from the checkout; the data is where `prepare-data coco` puts it."""
    root, built = Path(__file__).parents[2], tmp_path / "built"
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(built)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    code = (
        "from cspdet.cli.main import main\n"
        "from cspdet.recipe import load_recipe\n"
        "assert main(['configs', '--copy', 'csppelee_efm_sam']) == 0\n"
        "assert load_recipe('csppelee_efm_sam') == load_recipe('csppelee_efm_sam.yaml')\n"
        "assert load_recipe('csppelee_efm_sam', ['data=x.yaml']).data.name == 'x.yaml'\n"
        "print(load_recipe('configs/csppelee_efm_sam.yaml').data)\n"
        "assert main(['train', 'csppelee_efm_sam']) == 2"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(built)},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["csppelee_efm_sam.yaml", str(tmp_path / "data/coco/coco.yaml")]
    assert "run `cspdet prepare-data coco --output data/coco`" in done.stderr
    assert (built / "cspdet/py.typed").is_file()
    assert list((built / "cspdet/reports/templates").iterdir())
