"""`cspdet configs`: every released config is listed, and a copy never replaces a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cspdet.cli.main import main
from cspdet.config.released import configs_dir, find_config
from cspdet.models.published import PUBLISHED
from cspdet.recipe import load_recipe


def listed(capsys) -> list[dict]:
    assert main(["configs", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_file_is_listed_with_its_published_values(capsys):
    rows = {row["name"]: row for row in listed(capsys)}
    assert {Path(row["path"]) for row in rows.values()} == set(configs_dir().rglob("*.yaml"))
    efm = rows["csppelee_efm_sam"]
    assert (efm["task"], efm["bflops"], efm["ap"], efm["top1"]) == ("detection", 5.068, 26.8, None)
    assert efm["summary"] == "CSPPeleeNet-EFM (SAM), the small detector of the CSPNet paper"
    for row in rows.values():
        assert row["summary"]
        if row["kind"] == "config":
            assert load_recipe(row["name"]).task == row["task"]
            assert find_config(row["name"]) == Path(row["path"])
            assert Path(row["name"]).name in PUBLISHED


def test_the_list_fits_the_terminal(capsys):
    rows = listed(capsys)
    assert main(["configs"]) == 0
    piped = capsys.readouterr().out.splitlines()
    assert sum(bool(line) for line in piped) == len(rows) + 3  # one line per config, and three heads


def test_a_copy_is_written_where_the_user_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for words in (["yolov3"], ["classification/resnet10", "folder"], ["train/paper", "new/mine.yaml"]):
        assert main(["configs", "--copy", *words]) == 0
    assert capsys.readouterr().out.split() == ["yolov3.yaml", os.path.join("folder", "resnet10.yaml"), "new/mine.yaml"]
    assert load_recipe("yolov3.yaml", ["train=new/mine.yaml"]).train.loss.box == "mse"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--copy", "yolov3"], "yolov3.yaml: exists, and cspdet did not write it"),
        (["--copy", "yolov33", "x.yaml"], "did you mean 'yolov3'?"),
        (["yolov3"], "`--copy NAME DEST` writes a config"),
        (["a.b=c"], "takes no overrides"),
    ],
)
def test_mistakes(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolov3.yaml").write_text("mine: 1\n")
    assert main(["configs", *words]) == 2
    assert expected in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["yolov3.yaml"]
    assert (tmp_path / "yolov3.yaml").read_text() == "mine: 1\n"
