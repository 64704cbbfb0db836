"""`import-darknet` and what its checkpoints are good for, on networks of our own and, where they are, on real files.

CSPDET_TEST_DATA names a folder with real weights (`weights/NAME/NAME.cfg`...), pictures and expected results,
CSPDET_DARKNET_CFGS one with the authors' cfgs, CSPDET_OPENCV4_PYTHON an interpreter that has OpenCV 4. What is not
named is not tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmark_scripts import load_script
from darknet_data import CLASSIFIER, NET, RICH, TINY, YOLOV2, conv, network, write_numbers, write_pair, yolo

from cspdet import load_detector
from cspdet.checkpoints.loading import load_model
from cspdet.cli.main import main
from cspdet.config.loader import load_config
from cspdet.darknet.cfg import parse_cfg, read_cfg
from cspdet.darknet.names import VOC_CLASSES, categories_from_count, categories_from_names, read_names
from cspdet.darknet.network import DarknetClassifier, DarknetDetector
from cspdet.darknet.weight_order import layers_in_file_order
from cspdet.darknet.weights import SkipInit, read_weights, write_weights
from cspdet.datasets.formats.coco_format import COCO_CLASSES
from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.errors import CheckpointError, ConfigError
from cspdet.recipe import ClassificationRecipe, DetectionRecipe, load_recipe

ROOT = Path(__file__).parents[2]
DATA = os.environ.get("CSPDET_TEST_DATA")
CFGS = os.environ.get("CSPDET_DARKNET_CFGS")
OPENCV = os.environ.get("CSPDET_OPENCV4_PYTHON")


def imported(folder: Path, text: str, *more: str) -> Path:
    cfg, weights = write_pair(folder, text)
    assert main(["import-darknet", str(cfg), str(weights), "--output", str(folder / "x.pt"), *more]) == 0
    return folder / "x.pt"


def test_a_detector_becomes_a_model(tmp_path, capsys):
    path = imported(tmp_path, TINY)
    output = capsys.readouterr().out
    assert "a detector of 2 classes (class 1, class 2...), 64x64, stretch; 6,102 values in all 7 layers" in output
    loaded = load_model(path)
    direct = network(TINY)
    read_weights(tmp_path / "x.weights", direct.body.layer_weights())
    x = torch.rand(1, 3, 64, 64)
    for a, b in zip(loaded.network(x), direct.eval()(x), strict=True):
        assert torch.equal(a, b)
    assert (loaded.config.input.size, loaded.config.input.resize) == ((64, 64), "stretch")
    assert load_model(path, overrides=["input.size=[32,96]"]).config.input.size == (32, 96)
    with pytest.raises(
        ConfigError, match=r"input\.size: 40x40 does not fit the cfg: .*x\.cfg:78: \[route\] layers: layer 12"
    ):
        load_model(path, overrides=["input.size=40"])
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["strides"] == [4, 16]


def test_the_cfg_decides_letterbox_and_the_flag_the_epsilon(tmp_path):
    loaded = load_model(imported(tmp_path, RICH, "--bn-eps", "1e-6"))
    assert loaded.config.input.resize == "letterbox"
    assert {m.eps for m in loaded.network.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-6}
    assert loaded.network.anchors.wh_decoding == "square"


def test_a_classifier_becomes_one(tmp_path, capsys):
    path = imported(tmp_path, CLASSIFIER, "--json")
    assert json.loads(capsys.readouterr().out)["kind"] == "classifier"
    loaded = load_model(path)
    assert loaded.task == "classification"
    assert loaded.network(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    with pytest.raises(CheckpointError, match="expected a detector, found a classifier"):
        load_model(path, task="detection")
    assert main(["info", str(path)]) == 0


def test_names_and_their_ids(tmp_path):
    names = tmp_path / "x.names"
    names.write_text("cat \r\nhot dog\r\n\r\n")
    assert read_names(names) == ("cat", "hot dog")
    loaded = load_model(imported(tmp_path, TINY, "--names", str(names)))
    assert (loaded.categories.names, loaded.categories.category_ids) == (("cat", "hot dog"), (1, 2))
    darknets = tuple({"airplane": "aeroplane", "tv": "tvmonitor"}.get(name, name) for name in COCO_CLASSES.names)
    assert (
        categories_from_names(darknets)
        == categories_from_names(COCO_CLASSES.names)
        == categories_from_count(80)
        == COCO_CLASSES
    )
    assert categories_from_count(20) == categories_from_names(VOC_CLASSES.names) == VOC_CLASSES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{cfg}", "{weights}", "--output", "x.onnx"], "expected a checkpoint's name"),
        (["{cfg}", "{cfg}", "--output", "x.pt"], "not a .weights file: found version"),
        (["{cfg}", "{weights}", "--output", "x.pt", "--names", "{names}"], "3 names, but"),
        (["{cfg}", "{weights}", "--output", "x.pt", "--names", "{weights}"], "x.weights:1: not text: found a NUL byte"),
        (["{cfg}", "{weights}", "--output", "x.pt", "--bn-eps", "2"], "bn_eps"),
        (["nothing.cfg", "{weights}", "--output", "x.pt"], "no such file"),
        (["{yaml}", "{weights}", "--output", "x.pt", "--bn-eps", "1e-6"], "is not a cfg"),
        (["{yaml}", "{weights}", "--output", "x.pt"], "has 6,102 values, but the network needs"),
        (["{cfg}", "{weights}", "--output", "x.pt", "input.size=50"], "input.size: 50x50 does not fit the cfg"),
    ],
)
def test_mistakes_are_one_clear_error(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    cfg, weights = write_pair(tmp_path, TINY)
    (tmp_path / "3.names").write_text("a\nb\nc\n")
    places = {"cfg": cfg, "weights": weights, "names": tmp_path / "3.names", "yaml": ROOT / "configs/yolov3_tiny.yaml"}
    assert main(["import-darknet", *(word.format(**places) for word in words)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("mask=2", "mask=3", "x.cfg:{line}: [yolo] mask: expected numbers from 0 to 2, found 3"),
        ("37,58", "37,-8", "x.cfg:{line}: [yolo] anchors: expected widths and heights above 0"),
        ("37,58", f"37,{'1' * 200_000}x", "x.cfg:{line}: [yolo] anchors: expected a number, found '1111"),
    ],
)
def test_mistakes_in_a_head_name_the_file_of_the_user(tmp_path, capsys, before, after, message):
    cfg, weights = write_pair(tmp_path, TINY)
    line = TINY[: TINY.index(before)].count("\n") + 1
    cfg.write_text(TINY.replace(before, after, 1))
    assert main(["import-darknet", str(cfg), str(weights), "--output", str(tmp_path / "x.pt")]) == 2
    assert message.format(line=line) in capsys.readouterr().err


def test_a_partial_file_is_taken_when_asked_for(tmp_path, capsys):
    cfg, _ = write_pair(tmp_path, TINY)
    part = write_numbers(tmp_path / "x.conv.3", 248 + 1216)
    words = ["import-darknet", str(cfg), str(part), "--output", str(tmp_path / "x.pt")]
    assert main(words) == 2
    assert "--partial loads its 2 layers" in capsys.readouterr().err
    assert main([*words, "--partial"]) == 0
    assert "1,464 values in the first 2 of 7 layers" in capsys.readouterr().out


def test_a_cfg_stands_in_a_config_as_its_file_or_as_its_text(tmp_path):
    (tmp_path / "x.cfg").write_text(TINY)
    (tmp_path / "x.yaml").write_text("model: {name: darknet, cfg: x.cfg}\ninput: {size: 64}\ndata: none.yaml\n")
    recipe = load_recipe(tmp_path / "x.yaml")
    assert recipe.model.text == TINY
    assert recipe.model.build(7).num_classes == 7  # the data decides, as for every config
    assert load_recipe(tmp_path / "x.yaml", [f"model.cfg={tmp_path / 'x.cfg'}"]) == recipe
    (tmp_path / "bad.cfg").write_text(NET + "[maxpol]\n")
    with pytest.raises(ConfigError, match=r"bad.cfg:7: unknown section \[maxpol\]"):
        load_recipe(tmp_path / "x.yaml", [f"model.cfg={tmp_path / 'bad.cfg'}"]).model.build(2)
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(tmp_path / "x.yaml", ["model.cfg=nothing.cfg"])


@pytest.mark.e2e
@pytest.mark.parametrize(("text", "count"), [(TINY, 2), (RICH, 2), (YOLOV2, 3)], ids=["yolo", "new_coords", "region"])
def test_an_imported_network_trains_on_other_classes_evaluates_and_detects(text, count, tmp_path, capsys):
    make_shapes(tmp_path / "shapes", images=8, size=64, seed=0)
    weights = imported(tmp_path, text)
    (tmp_path / "x.yaml").write_text(
        "model: {name: darknet, cfg: x.cfg}\ninput: {size: 64, resize: stretch}\ndata: shapes/shapes.yaml\n"
        "train: {epochs: 1, batch_size: 4, workers: 0}\n"
    )
    run = tmp_path / "run"
    words = ["train", str(tmp_path / "x.yaml"), "--weights", str(weights), "--output", str(run), "--device", "cpu"]
    capsys.readouterr()
    assert main(words) == 0
    kept = f"kept 0 of 6 classes by name; the other 6 start from the mean of the {count} classes"
    assert kept in capsys.readouterr().err
    assert load_recipe(run / "config.yaml").model.text == text
    assert main(["eval", str(run / "best.pt"), "--output", str(tmp_path / "eval"), "--workers", "0"]) == 0
    image_path = next((tmp_path / "shapes/val").glob("*.*"))
    assert main(["detect", str(run / "best.pt"), str(image_path), "--output", str(tmp_path / "found")]) == 0
    for name in ("y.cfg", "y.torchscript"):
        assert main(["export", str(run / "best.pt"), "--output", str(tmp_path / name)]) == 0


# --- real files ----------------------------------------------------------------------------------


def overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def real(name: str, folder: Path, *more: str) -> Path:
    assert DATA is not None
    (cfg,), (weights,) = (list((Path(DATA) / "weights" / name).glob(f"*.{kind}")) for kind in ("cfg", "weights"))
    assert main(["import-darknet", str(cfg), str(weights), "--output", str(folder / "x.pt"), *more]) == 0
    return folder / "x.pt"


@pytest.mark.skipif(DATA is None, reason="CSPDET_TEST_DATA names no folder")
def test_yolo_fastest_finds_what_another_engine_finds(tmp_path):
    detector = load_detector(real("yolo-fastest-1.1", tmp_path), device="cpu", min_score=0.3, nms_iou=0.45)
    for image_path, expected in json.loads((Path(DATA or "") / "stills/expected.json").read_text()).items():
        found = detector.predict(Path(DATA or "") / "stills" / Path(image_path).name)
        rows = list(zip(found.box_xyxy.tolist(), found.score.tolist(), found.class_id.tolist(), strict=True))
        assert len(rows) == len(expected)
        for want in expected:
            name = classes_by_name_of_coco(want["class"])
            assert any(
                detector.class_names[c] == name
                and overlap(box, want["box_xyxy"]) >= 0.97
                and abs(score - want["score"]) <= 0.01
                for box, score, c in rows
            ), want


def classes_by_name_of_coco(name: str) -> str:
    """COCO's spelling of a class as Darknet's list has it."""
    return {"motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch"}.get(name, name)


@pytest.mark.e2e
@pytest.mark.skipif(DATA is None, reason="CSPDET_TEST_DATA names no folder")
def test_a_voc_network_reaches_its_ap(tmp_path):
    path, voc = real("mobilenetv2-yolov3-nano-voc", tmp_path), Path(DATA or "") / "voc100"
    splits = {
        split: {"images": str(voc / "images"), "annotations": str(voc / f"annotations/instances_{split}.json")}
        for split in ("train", "val")
    }
    (tmp_path / "voc.yaml").write_text(json.dumps(splits))
    words = ["eval", str(path), "--data", str(tmp_path / "voc.yaml"), "--min-score", "0.005", "--nms-iou", "0.45"]
    assert main([*words, "--output", str(tmp_path / "uncut"), "--workers", "0"]) == 0  # as an imported cfg is judged
    metrics = json.loads((tmp_path / "uncut/metrics.json").read_text())
    assert (metrics["AP"], metrics["AP50"]) == pytest.approx((0.3657, 0.7195), abs=0.005)
    assert main([*words, "--clip-boxes", "--output", str(tmp_path / "cut"), "--workers", "0"]) == 0
    assert json.loads((tmp_path / "cut/metrics.json").read_text())["AP50"] == pytest.approx(0.7195, abs=0.005)


OFFICIAL = {
    "yolov3": "yolov3",
    "yolov3_tiny": "yolov3-tiny",
    "yolov3_tiny_prn": "yolov3-tiny-prn",
    "cspresnext50_panet_spp": "csresnext50-panet-spp",
    "cspresnext50_panet_spp_optimal": "csresnext50-panet-spp-original-optimal",
    "classification/darknet53": "darknet53",
    "classification/cspdarknet53": "csdarknet53",
    "classification/cspdarknet53_elastic": "csdarknet53-elastic",
    "classification/cspresnet50": "csresnet50",
    "classification/cspresnet50_elastic": "csresnet50-elastic",
    "classification/cspresnext50": "csresnext50",
    "classification/cspresnext50_elastic": "csresnext50-elastic",
    "classification/resnet10": "resnet10",
    "classification/resnet50": "resnet50",
    "classification/resnext50": "resnext50",
    "classification/darknetref": "darknet",
    "classification/mobilenetv2": "mobilenet-v2",
    "classification/cspmobilenetv2": "csmobilenet-v2",
}


@pytest.mark.e2e
@pytest.mark.skipif(CFGS is None, reason="CSPDET_DARKNET_CFGS names no folder")
@pytest.mark.parametrize("config", OFFICIAL)
def test_one_file_means_the_same_to_the_cfg_and_to_our_own_network(tmp_path, config):
    cfg = parse_cfg(read_cfg(Path(CFGS or "") / f"{OFFICIAL[config]}.cfg"), OFFICIAL[config])
    with SkipInit():
        generic = DarknetDetector(cfg) if cfg.heads else DarknetClassifier(cfg)
        path = ROOT / f"configs/{config}.yaml"
        if cfg.heads:
            built = load_config(path, DetectionRecipe).model.build(80)
            assert torch.equal(built.anchors.wh, generic.anchors.wh)
            assert torch.equal(built.anchors.scale_x_y, generic.anchors.scale_x_y)
            assert built.strides == generic.strides
        else:
            built = load_config(path, ClassificationRecipe).model.build()
    load_script("opencv_parity").randomize(generic.body.layer_weights(), seed=0)
    write_weights(tmp_path / "x.weights", generic.body.layer_weights())
    read_weights(tmp_path / "x.weights", layers_in_file_order(built))
    x = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = generic.eval()(x), built.eval()(x)
    for p, q in zip(a, b, strict=True) if cfg.heads else [(a, b)]:
        assert (p - q).abs().max() <= 1e-6 * p.abs().max()


@pytest.mark.e2e
@pytest.mark.skipif(OPENCV is None, reason="CSPDET_OPENCV4_PYTHON names no interpreter")
def test_opencv_computes_the_same(tmp_path):
    # OpenCV has no partial shortcuts of several maps; what all official cfgs use stands in these three.
    heads = NET + conv(16, 3, 2) + conv(8) + conv(16, 3, act="linear") + "[shortcut]\nfrom=-3\nactivation=leaky\n"
    heads += "[reorg]\nstride=2\n" + conv(14, norm=False, act="linear") + yolo("0,2", "scale_x_y=1.1")
    (tmp_path / "heads.cfg").write_text(heads)
    (tmp_path / "tiny.cfg").write_text(TINY)
    words = [sys.executable, str(ROOT / "benchmarks/opencv_parity.py"), "--python", OPENCV or "", str(tmp_path)]
    words += [CFGS] if CFGS else []
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
