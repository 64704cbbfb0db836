"""The report of a training run: its numbers, its charts, its parts without a val split or metrics, and its size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from pages_data import Page, analysis_case

from cspdet.datasets.checks.statistics import data_statistics
from cspdet.io.outputs import PAGE, SEARCHED_BYTES
from cspdet.reports.run_metrics import read_runs
from cspdet.reports.run_report import RunReport, write_run_report

LINES = [
    {"epoch": 1, "loss": 8.0, "loss_box": 5.0, "lr": 0.02, "images_per_second": 10.0},
    {"epoch": 2, "loss": 6.0, "loss_box": 3.0, "lr": 0.01, "images_per_second": 20.0, "AP": 0.25, "AP50": 0.5},
    {"epoch": 3, "loss": 4.0, "loss_box": 1.0, "lr": 0.005, "images_per_second": 30.0, "AP": 0.125, "AP50": 0.75},
]


@pytest.fixture
def run_dir(tmp_path) -> Path:
    folder = tmp_path / "a <b> run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    for name in ("train_batch.jpg", "val_detections.jpg"):
        cv2.imwrite(str(folder / name), pixels)
    return folder


def report_page(run_dir: Path, **content: object) -> Page:
    values = {"facts": (("model", "net"),), "config": "a: 1\n# <i>", "epochs": 4, "is_complete": True, **content}
    path = run_dir / "report.html"
    write_run_report(path, RunReport(run_dir, metrics=read_runs([run_dir])[0], **values))  # type: ignore[arg-type]
    return Page(path.read_text(encoding="utf-8"))


def test_a_report_has_the_metrics_of_the_best_epoch(run_dir):
    page = report_page(run_dir)
    assert "AP 0.250 mean over classes" in page.plain  # of epoch 2, not of the last
    assert "AP50 0.500 AP at IoU .50" in page.plain
    assert "best epoch 2" in page.plain
    assert "epochs 3 of 4 resume with" in page.plain
    assert "Training of a <b> run" in page.plain
    assert page.attributes("b") == page.attributes("i") == []
    assert [attrs["alt"] for attrs in page.attributes("img")] == [
        "Input images of the first training batch, after augmentation",
        "Validation images with the detections of the last evaluation",
    ]
    assert PAGE.search(page.text.encode()[-SEARCHED_BYTES // 2 :])


def test_curves_go_through_the_values(run_dir):
    """The chart of the losses is 420 wide with margins of 50 and 12, from epoch 0 to 3 and from 0 to 8."""
    page = report_page(run_dir)
    figure = page.text[page.text.index("<figcaption>Loss") :]
    line = re.search(r'class="line0" points="([^"]+)"', figure)
    assert line is not None
    points = [tuple(map(float, point.split(","))) for point in line[1].split()]
    assert [x for x, _ in points] == pytest.approx([50 + 358 * k / 3 for k in (1, 2, 3)], abs=0.1)
    assert [y for _, y in points] == pytest.approx([226 - 214 * value / 8 for value in (8, 6, 4)], abs=0.1)
    assert [word for word in ("Loss", "AP on the val split", "Learning rate", "Training speed") if word in page.plain]
    assert "Accuracy" not in page.plain
    # AP has no value in epoch 1
    ap = re.search(r'class="line0" points="([^"]+)"', page.text[page.text.index("<figcaption>AP on") :])
    assert ap is not None
    assert len(ap[1].split()) == 2


def test_a_report_has_the_analysis_and_the_data(run_dir, tmp_path):
    coco, analysis = analysis_case(tmp_path)
    page = report_page(run_dir, analysis=analysis, val_set=coco, statistics={"val": data_statistics(coco)})
    expected = [
        *(
            "results",
            "curves",
            "samples",
            "errors",
            "explore",
            "classes",
            "confusion",
            "data",
            "data-classes",
            "config",
        ),
    ]
    assert [one for one in page.ids if one in expected] == expected
    assert page.column("Splits", "boxes") == ["5"]
    assert page.column("Each class at the threshold", "TP") == ["1", "1"]
    assert len(page.attributes("img")) == 3  # two samples, and the image with errors


def test_a_stopped_run_has_a_report_without_analysis(run_dir):
    (run_dir / "train_batch.jpg").unlink()
    (run_dir / "val_detections.jpg").unlink()
    write_run_report(run_dir / "report.html", RunReport(run_dir, (), "", 4, False, None))
    page = Page((run_dir / "report.html").read_text())
    assert "The run was stopped before its end." in page.plain
    assert "epochs 0 of 4" in page.plain
    assert "samples" not in page.ids
    assert "curves" not in page.ids


def test_a_classifier_has_the_images_of_each_class(run_dir):
    lines = [{"epoch": 1, "loss": 1.0, "top1": 0.5, "top5": None}]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = report_page(run_dir, image_counts={"train": {"cat": 3, "dog": 4}, "val": {"cat": 1, "dog": 0}})
    assert page.column("Images of each class", "val images") == ["1", "0"]
    assert "top1 0.500 accuracy" in page.plain
    assert "top5" not in page.plain  # undefined
