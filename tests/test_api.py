"""The functions of `cspdet`: names, and a run through train, evaluate, predict, export and analyze."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cspdet
from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.errors import UserError

ROOT = Path(__file__).parents[1]


def test_all_public_names_are_there_and_listed():
    assert set(cspdet.__all__) <= set(dir(cspdet))
    assert [name for name in cspdet.__all__ if getattr(cspdet, name) is None] == []
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        cspdet.trian  # noqa: B018


def test_all_names_of_the_api_are_public():
    from cspdet import api

    assert set(api.__all__) <= set(cspdet.__all__)
    assert [name for name in api.__all__ if not getattr(api, name).__doc__] == []


def test_listing_the_names_imports_nothing():
    code = "import sys, cspdet; dir(cspdet); print('torch' in sys.modules, 'cspdet.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_export_is_a_function_and_a_package():
    import cspdet.exporters.base

    assert cspdet.exporters.base.EXPORT_FORMATS.names()
    with pytest.raises(cspdet.UserError, match="did you mean 'onnx'"):
        cspdet.export("x.pt", "onx")


@pytest.mark.e2e
def test_a_model_is_trained_evaluated_used_exported_and_analyzed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_shapes(tmp_path / "data", images=8, size=64, seed=0)
    overrides = [
        "data=data/shapes.yaml", "input.size=64", "train.epochs=1", "train.batch_size=4", "train.workers=0",
        "eval.workers=0",
        "train.loggers=[]",
    ]  # fmt: skip
    run = cspdet.train(ROOT / "configs/yolov3_tiny_prn.yaml", output="run", overrides=overrides, device="cpu")
    assert (run.run_dir, run.exit_code) == (Path("run"), 0)

    evaluation = cspdet.evaluate("run/best.pt", device="cpu", min_score=0.01)
    assert evaluation.task == "detection"
    assert 0 <= evaluation.metrics["AP50"] <= 1

    bundle = cspdet.load("run/best.pt")
    assert (bundle.info.name, bundle.info.dataset, bundle.info.epoch) == ("run", "shapes.yaml", 1)
    assert bundle.info.data["train"].images == 8
    assert bundle.info.metrics.keys() >= {"AP", "AP50"}
    assert set(bundle.info.versions) == {"cspdet", "python", "torch"}
    image = np.zeros((64, 64, 3), np.uint8)
    detections = cspdet.predict(bundle, image, device="cpu")
    assert detections.box_xyxy.shape == (len(detections), 4)
    images = sorted((tmp_path / "data/val").glob("*.jpg"))
    listed = cspdet.predict("run/best.pt", images[0].parent, device="cpu")
    assert len(listed) == len(images)

    (script,) = cspdet.export("run/best.pt", "torchscript").paths
    assert script == Path("run/best.torchscript")
    report = cspdet.analyze("run/detections.json", page=False)
    assert report.analyses[0].num_gt > 0
    assert report.output == Path("runs/analyze")


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(UserError, match="at least one results file, found none"):
        cspdet.analyze([])
    with pytest.raises(UserError, match="a name for each of the 1 results files, found 2"):
        cspdet.analyze(["a.json"], names=["a", "b"])
    with pytest.raises(ValueError, match="model: expected a path, a loaded model or a predictor, found NoneType"):
        cspdet.predict(None, np.zeros((9, 9, 3), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"overrides: expected a list of key.path=value, found the text"):
        cspdet.load("csppelee_prn", overrides="train.epochs=1")
