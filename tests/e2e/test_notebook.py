"""docs/tutorials/quickstart.ipynb: its code cells run, and it is committed without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/tutorials/quickstart.ipynb"
SETTINGS = "IMAGES, INPUT_SIZE, EPOCHS = 400, 160, 12"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_has_no_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS)


@pytest.mark.e2e
def test_the_cells_run_in_order(tmp_path, monkeypatch, capsys):
    code = "\n".join("".join(cell["source"]) for cell in CELLS)
    assert SETTINGS in code
    monkeypatch.chdir(tmp_path)
    small = code.replace(SETTINGS, "IMAGES, INPUT_SIZE, EPOCHS = 8, 64, 1")
    values: dict[str, object] = {}
    exec(compile(small, str(NOTEBOOK), "exec"), values)
    assert (tmp_path / "runs/notebook/best.pt").is_file()
    assert (tmp_path / "runs/notebook-analysis/index.html").is_file()
    assert "AP50" in capsys.readouterr().out
