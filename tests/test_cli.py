"""The command line itself: verbs, overrides, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cspdet.cli import VERBS, main

ROOT = Path(__file__).parents[1]
CONFIGS = [str(ROOT / "configs" / name) for name in ("csppelee_efm.yaml", "csppelee_efm_sam.yaml")]
CLASSIFIER = str(ROOT / "configs/classification/csppeleenet.yaml")


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in VERBS)
    assert main([]) == 2


def test_an_unknown_verb_offers_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown command 'trian' (did you mean 'train'?)")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert f"usage: cspdet {verb}" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cspdet 0.")


def info(*words: str) -> list[dict]:
    done = subprocess.run([sys.executable, "tools/info.py", *words, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_info_gives_the_published_figures_beside_ours():
    efm, sam, classifier = info(*CONFIGS, CLASSIFIER)
    assert (round(efm["bflops"], 3), round(sam["bflops"], 3)) == (4.837, 5.037)
    assert sam["size"] == [416, 416]
    assert sam["strides"] == [8, 16, 32]
    assert sam["published"]["bflops"] == 5.068
    assert (classifier["conv_weights"], round(classifier["bflops"], 4)) == (2_830_944, 0.8918)
    assert classifier["published"]["conv_weights"] == 2.83e6
    assert set(efm) == {
        "model", "size", "parameters", "conv_weights", "bflops", "memory_traffic", "largest_layer_bflops", "strides",
        "published",
    }  # fmt: skip


def test_info_takes_sizes_and_overrides_anywhere_on_the_line(capsys):
    words = ["info", "model.neck.sam=false", CONFIGS[1], "--size", "320x640", "--json", "model.backbone.gamma=0.25"]
    assert main(words) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["size"] == [320, 640]
    assert main(["info", CONFIGS[0], "--json"]) == 0
    (plain,) = json.loads(capsys.readouterr().out)
    assert row["bflops"] / plain["bflops"] > 320 * 640 / 416 / 416  # a smaller share bypasses: dearer a pixel


def test_the_layers_add_up(capsys):
    assert main(["info", CONFIGS[1], "--layers", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert sum(layer["bflops"] for layer in row["layers"]) == pytest.approx(row["bflops"])
    assert sum(layer["weights"] for layer in row["layers"]) == row["conv_weights"]
    assert max(layer["bflops"] for layer in row["layers"]) == row["largest_layer_bflops"]
    assert main(["info", CONFIGS[1], "--layers"]) == 0
    table = capsys.readouterr().out
    assert "layer by layer" in table
    assert "head.predict.2" in table


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["info", "nothing.pt"], "nothing.pt: no such file"),
        (["info", CONFIGS[0], "--size", "416"], "--size: expected HEIGHTxWIDTH"),
        (["info", CONFIGS[0], "--size", "100x100"], "expected multiples of 32, found 100x100"),
        (["info", CONFIGS[0], "model.nek.sam=true"], "model.nek: unknown key (did you mean 'neck'?)"),
        (["info"], "the following arguments are required: MODEL"),
    ],
)
def test_mistakes_exit_2_with_error_lines(words, expected, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert all(line.startswith("error: ") for line in said.splitlines())
    assert expected in said
