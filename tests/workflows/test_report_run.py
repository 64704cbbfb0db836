"""The report at the end of a run: written and replaced, and never a reason for a run to fail."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from pages_data import write_images, write_split

from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.formats.coco import load_coco
from cspdet.recipe import load_recipe
from cspdet.training.tasks.base import TrainingData
from cspdet.workflows.run_report import report_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """Arguments of `report_run` for a run folder with detections, and a network of six parameters."""
    names = ["a.png", "b.png"]
    write_images(tmp_path / "images", names)
    path = write_split(tmp_path, "val", ["disk"], names, [[0, 0, 10, 10, 40, 40, 0], [1, 0, 20, 20, 40, 40, 0]])
    coco = load_coco(SplitFiles(tmp_path / "images", path), "val")
    folder = tmp_path / "run"
    folder.mkdir()
    detections = [{"image_id": 0, "category_id": 10, "bbox": [10, 10, 40, 40], "score": 0.9}]
    (folder / "detections.json").write_text(json.dumps(detections))
    (folder / "config.yaml").write_text("# written by cspdet train\n")
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2.0, "AP": 0.5}\n')
    recipe = load_recipe(ROOT / "configs/csppelee_efm_sam.yaml", ["data=data.yaml", "input.size=[64, 96]"])
    return folder, recipe, TrainingData(coco, coco, coco.classes, path, "two images"), torch.nn.Linear(2, 2)


def messages(log_capture) -> list[str]:
    return [record.getMessage() for record in log_capture.records]


def test_the_last_line_is_the_path(run, log_capture):
    report_run(*run, is_complete=True)
    lines, page = messages(log_capture), (run[0] / "report.html").read_text()
    assert lines[-1] == f"report: {run[0] / 'report.html'}"
    assert any(line.startswith("best.pt: AP 0.50") for line in lines)
    for text in ("csppeleenet + efm, 0.00 M parameters", "96 x 64", "two images", 'id="explore"'):
        assert text in page


def test_a_stopped_run_has_no_analysis(run, log_capture):
    report_run(*run, is_complete=False)
    assert messages(log_capture) == [f"report: {run[0] / 'report.html'}"]
    assert "stopped before its end" in (run[0] / "report.html").read_text()


def test_an_earlier_report_is_replaced_and_a_file_of_the_user_is_kept(run, log_capture):
    page = run[0] / "report.html"
    report_run(*run, is_complete=False)
    earlier = page.read_text()
    report_run(*run, is_complete=True)
    assert page.read_text() != earlier
    page.write_text("<p>my notes</p>")
    report_run(*run, is_complete=True)
    assert page.read_text() == "<p>my notes</p>"
    assert (
        messages(log_capture)[-1] == f"{page}: exists, and cspdet did not write it; it is kept, and there is no report"
    )


@pytest.mark.parametrize("damage", ["detections", "config", "folder"])
def test_a_failure_is_one_warning(run, log_capture, damage):
    folder, page = run[0], run[0] / "report.html"
    if damage == "detections":
        (folder / "detections.json").write_text("not JSON")
    elif damage == "config":
        (folder / "config.yaml").unlink()
    else:
        page.mkdir()
    report_run(*run, is_complete=True)
    warnings = [record for record in log_capture.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].getMessage().startswith(f"{page}: the report cannot be written: ")
    assert "\n" not in warnings[0].getMessage()
    assert not page.is_file()
