"""Start-up: help texts and mistakes on the command line are answered without importing torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cspdet.cli.main import COMMAND_HELP

ROOT = Path(__file__).parents[2]

# Runs command lines in one process, and reports for each the exit code and whether it imported torch.
PROBE = """
import contextlib, io, json, sys
from cspdet.cli.main import main

reports = []
for words in json.loads(sys.argv[1]):
    before = set(sys.modules)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            code = main(words)
        except SystemExit as left:
            code = left.code
    reports.append([code, "torch" in set(sys.modules) - before, errors.getvalue()])
print(json.dumps(reports))
"""


def probe(*lines: list[str], cwd: Path = ROOT) -> list[tuple[int, bool, str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(lines)],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(code, has_torch, text) for code, has_torch, text in json.loads(done.stdout)]


def test_help_texts_do_not_import_torch():
    lines = [["--help"], ["--version"], *([command, "--help"] for command in COMMAND_HELP)]
    reports = probe(*lines)
    assert [(line, code) for line, (code, _, _) in zip(lines, reports, strict=True) if code != 0] == []
    assert [line for line, (_, has_torch, _) in zip(lines, reports, strict=True) if has_torch] == []


MISTAKES = {
    "unknown command": (["trian"], "did you mean 'train'?"),
    "unknown flag": (["info", "configs/csppelee_efm.yaml", "--layer"], "did you mean '--layers'?"),
    "missing checkpoint": (["detect", "nothing.pt", "image.jpg"], "nothing.pt: no such file"),
    "missing checkpoint and image": (["detect", "nothing.pt", "none.jpg"], "\nerror: none.jpg: no such image, video"),
    "missing checkpoints": (["info", "nothing.pt", "none.pt"], "\nerror: none.pt: no such file"),
    "missing model and data": (["eval", "nothing.pt", "--data", "none.yaml"], "\nerror: none.yaml: no such data desc"),
    "missing cfg and weights": (["import-darknet", "x.cfg", "x.weights", "--output", "x.pt"], "\nerror: x.weights: no"),
    "missing runs": (["analyze", "nowhere", "nothing"], "\nerror: nothing: no such run folder"),
    "command of another toolkit": (["track", "x.pt"], "did you mean 'detect --track'?"),
    "missing config": (["train", "configs/csppelee_emf.yaml"], "did you mean 'csppelee_efm.yaml'?"),
    "missing config of info": (["info", "configs/csppelee_emf.yaml"], "did you mean 'csppelee_efm.yaml'?"),
    "missing data": (["train", "configs/csppelee_efm.yaml", "data=data/nothing.yaml"], "no such data descriptor"),
    "override": (["train", "configs/csppelee_efm.yaml", "train.epoch=3"], "did you mean 'epochs'?"),
    "override of a classifier": (
        ["train-classifier", "configs/classification/csppeleenet.yaml", "trian.epochs=3"],
        "did you mean 'train'?",
    ),
    "wrong value": (["export", "configs/csppelee_efm.yaml", "--format", "onx"], "did you mean 'onnx'?"),
    "wrong threshold": (["detect", "x.yaml", "image.jpg", "--min-score", "2"], "--min-score: expected"),
    "missing results": (["analyze", "nowhere"], "no such run folder or results file"),
}


@pytest.fixture(scope="module")
def mistakes() -> dict[str, tuple[int, bool, str]]:
    return dict(zip(MISTAKES, probe(*(words for words, _ in MISTAKES.values())), strict=True))


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_do_not_import_torch(name, mistakes):
    code, has_torch, text = mistakes[name]
    assert (code, MISTAKES[name][1] in text) == (2, True), text
    assert all(line.startswith("error: ") for line in text.splitlines())
    assert not has_torch
