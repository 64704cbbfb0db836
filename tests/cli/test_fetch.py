"""`cspdet fetch`, `cspdet zoo`, and the names of downloaded models in other commands."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from darknet_data import TINY, write_pair
from file_server import FileServer, serve_files
from PIL import Image

import cspdet
from cspdet.cli.main import main
from cspdet.config.loader import parse_config
from cspdet.darknet.names import VOC_CLASSES
from cspdet.models.config import DetectorConfig
from cspdet.structures import Categories

DATA = os.environ.get("CSPDET_TEST_DATA")
CATALOGUE = """
mine-1.0:
  summary: a small network
  kind: darknet
  source: https://example.org
  license: public domain
  weights: {{name: x.weights, urls: ['{url}/x.weights'], bytes: {size}, sha256: {sha256}}}
  cfg: {{name: x.cfg, urls: ['{url}/x.cfg']}}
  names: {{name: x.names, urls: ['{url}/x.names']}}
  classes: file
  protocol: map
  size: [96, 64]
"""


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A catalogue with one model on a local server, an empty cache, and the image street.png in the current folder."""
    cfg, weights = write_pair(tmp_path, TINY)
    content = weights.read_bytes()
    with serve_files({"/x.weights": content, "/x.cfg": cfg.read_bytes(), "/x.names": b"cat\ndog\n"}) as server:
        text = CATALOGUE.format(url=server.url, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        (tmp_path / "zoo.yaml").write_text(text)
        for name, value in {"CSPDET_ZOO": "zoo.yaml", "CSPDET_HOME": "home", "no_proxy": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value if name == "no_proxy" else str(tmp_path / value))
        monkeypatch.chdir(tmp_path)
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save("street.png")
        yield server


def test_a_fetched_model_has_the_protocol_of_its_accuracy_and_is_loaded_by_name(zoo, tmp_path, capsys):
    assert main(["fetch", "mine-1.0"]) == 0
    path = tmp_path / "home/zoo/mine-1.0/mine-1.0.pt"
    assert capsys.readouterr().out == f"mine-1.0: {path}\n"
    bundle = cspdet.load("mine-1.0")
    assert bundle.categories == Categories(("cat", "dog"), (1, 2))
    assert (bundle.config.input.size, bundle.config.input.resize) == ((96, 64), "stretch")
    assert (bundle.config.eval.min_score, bundle.config.eval.nms_iou, bundle.config.eval.clip_boxes) == (
        0.005, 0.45, False,
    )  # fmt: skip
    assert sorted(json.loads((tmp_path / "home/zoo/hashes.json").read_text())) == ["mine-1.0/x.cfg", "mine-1.0/x.names"]
    zoo.asked.clear()
    assert main(["fetch", "mine-1.0", "--json"]) == 0
    assert cspdet.fetch("mine-1.0") == path
    assert zoo.asked == []
    assert json.loads(capsys.readouterr().out) == {"mine-1.0": str(path)}
    assert main(["detect", "mine-1.0", "street.png", "--output", "out", "--backend", "torch"]) == 0
    assert main(["info", "mine-1.0"]) == 0
    assert "mine-1.0" in capsys.readouterr().out


def test_a_fetched_model_resizes_images_as_its_cfg_says(zoo, tmp_path):
    (tmp_path / "x.cfg").write_text(TINY.replace("[net]", "[net]\nletter_box=1"))
    assert main(["fetch", "mine-1.0", "--file", "x.cfg"]) == 0
    assert cspdet.load("mine-1.0").config.input.resize == "letterbox"


def test_only_fetch_reaches_the_network(zoo, capsys):
    assert main(["detect", "mine-1.0", "street.png"]) == 2
    assert "mine-1.0: this model is not downloaded; `cspdet fetch mine-1.0` downloads it" in capsys.readouterr().err
    assert main(["detect", "mine", "street.png"]) == 2
    assert "(did you mean 'mine-1.0'?)" in capsys.readouterr().err
    assert main(["fetch", "mine"]) == 2
    assert "mine: no model of this name (did you mean 'mine-1.0'?)" in capsys.readouterr().err
    assert zoo.asked == []
    assert main(["detect", "mine-1.0", "street.png", "--output", "out", "--backend", "torch", "--fetch"]) == 0
    assert {path for path, _ in zoo.asked} == {"/x.cfg", "/x.names", "/x.weights"}


def test_a_failed_fetch_is_one_line_and_the_others_are_fetched(zoo, tmp_path, capsys):
    text = (tmp_path / "zoo.yaml").read_text()
    (tmp_path / "zoo.yaml").write_text(text + text.replace("mine-1.0", "other").replace("x.names'", "gone.names'"))
    assert main(["fetch", "other", "mine-1.0"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("mine-1.0: ")
    assert captured.err.count("error:") == 1
    assert "gone.names: the server responded 404" in captured.err
    assert main(["fetch", "other"]) == 2
    assert capsys.readouterr().out == ""


def test_a_cfg_that_cannot_be_read_is_downloaded_again(zoo, capsys):
    good, zoo.files["/x.cfg"] = zoo.files["/x.cfg"], b"log in, please"
    assert main(["fetch", "mine-1.0"]) == 2
    assert "mine-1.0: " in capsys.readouterr().err
    zoo.files["/x.cfg"] = good
    assert main(["fetch", "mine-1.0"]) == 0


def test_a_model_of_files_that_the_user_has(zoo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CSPDET_OFFLINE", "1")
    (tmp_path / "x.names").write_text("cat\ndog\n")
    copies = [word for name in ("x.cfg", "x.weights", "x.names") for word in ("--file", str(tmp_path / name))]
    assert main(["fetch", "mine-1.0", *copies[:4]]) == 2
    assert "x.names is not in the cache, and CSPDET_OFFLINE forbids downloads" in capsys.readouterr().err
    assert main(["fetch", "mine-1.0", *copies]) == 0
    assert zoo.asked == []


def test_the_catalogue_says_what_is_downloaded(zoo, capsys):
    assert main(["zoo"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["model", "published", "accuracy", "val2017", "here", "MB"]
    assert all(len(line) <= 80 for line in table)
    assert next(line for line in table if line.startswith("mine-1.0")).split()[-2] == "-"
    main(["fetch", "mine-1.0"])
    capsys.readouterr()
    assert main(["zoo", "mine-1.0", "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["downloaded"]
    assert facts["weights"]["bytes"] == (Path("x.weights")).stat().st_size
    assert main(["zoo", "yolov4"]) == 0
    details = capsys.readouterr().out
    assert "accuracy  AP 43.5, AP50 65.7 on COCO test-dev at 608x608" in details
    assert "fetch     cspdet fetch yolov4" in details


def test_a_config_of_the_same_name_is_used_until_the_model_is_downloaded(zoo, capsys):
    assert main(["info", "yolov3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_weights_of_timm_start_a_timm_backbone(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    from cspdet.checkpoints.pretrained import load_backbone_weights

    torch.manual_seed(0)
    expected = timm.create_model("resnet10t").state_dict()
    safetensors.save_file(expected, tmp_path / "resnet10t.c3_in1k.safetensors")
    values = {"backbone": {"name": "timm:resnet10t"}, "neck": {"name": "yolov3"}}
    detector = parse_config(values, DetectorConfig, "x").build(2)
    load_backbone_weights(detector, tmp_path / "resnet10t.c3_in1k.safetensors")
    loaded = detector.state_dict()
    backbone = {key: value for key, value in expected.items() if not key.startswith("fc.")}
    assert len(backbone) > 50
    assert all(torch.equal(value, loaded[f"backbone.network.{key}"]) for key, value in backbone.items())


@pytest.mark.skipif(DATA is None, reason="CSPDET_TEST_DATA names no folder")
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "mobilenetv2-yolov3-nano-voc"])
def test_the_real_files_are_those_of_the_catalogue(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CSPDET_HOME", str(tmp_path))
    monkeypatch.setenv("CSPDET_OFFLINE", "1")
    folder = Path(DATA or "") / "weights" / name
    path = cspdet.fetch(name, copies=[*folder.glob("*.cfg"), *folder.glob("*.weights")])
    bundle = cspdet.load(path)
    assert bundle.config.input.size == (320, 320)
    assert (len(bundle.categories), bundle.categories.category_ids[-1]) == (
        (80, 90) if name == "yolo-fastest-1.1" else (20, len(VOC_CLASSES))
    )
