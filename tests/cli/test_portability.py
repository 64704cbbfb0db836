"""Names with any characters, in pipes with any encoding: one real process for each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METRICS = '{"epoch": 1, "loss": 2.5}\n{"epoch": 2, "loss": 1.5}\n'


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("variables", "encoding"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "ascii"),
        ({"PYTHONIOENCODING": "cp1252"}, "cp1252"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
    ],
)
def test_a_command_prints_any_name_in_any_encoding(tmp_path, variables, encoding):
    run = tmp_path / "lr=0.1 猫 é \x1b[2J\nerror: forged"
    run.mkdir()
    (run / "metrics.jsonl").write_text(METRICS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "cspdet", "plot", str(run), "--title", "a=b 猫", "--output", "plot.png"],
        cwd=tmp_path, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "plot.png").stat().st_size > 0
    assert "epoch 2, loss 1.5000" in done.stdout.decode(encoding)
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"UserWarning" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete a current folder")
def test_a_deleted_current_folder_is_reported(tmp_path):
    code = (
        "import os, sys; os.rmdir(os.getcwd()); from cspdet.cli.main import main; sys.exit(main(['info', '/x.yaml']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().endswith(
        "the current folder was deleted: expected one that exists; change to another folder"
    )
