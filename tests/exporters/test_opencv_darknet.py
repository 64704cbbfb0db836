"""A cfg and its weights become an ONNX file that OpenCV runs with equal boxes, by the commands of opencv.md.

CSPDET_TEST_DATA names a folder with real weights and pictures; without it, they are not tested.
"""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from benchmark_scripts import load_script
from darknet_data import NET, RICH, TINY, YOLOV2, conv, network, yolo

from cspdet import load_detector
from cspdet.cli.main import main
from cspdet.darknet.names import read_names
from cspdet.darknet.weights import write_weights

pytest.importorskip("onnxruntime")
PAGE = Path(__file__).parents[2] / "docs/how-to/opencv.md"
DATA = os.environ.get("CSPDET_TEST_DATA")
benchmark = load_script("opencv_onnx")

# A CSP stage, SPP, and heads of other scale_x_y, finest first.
PANET = (
    NET + conv(8, 3, 2, act="mish") + conv(8, act="mish") + "[route]\nlayers=-2\n" + conv(8, 3, act="mish")
    + "[route]\nlayers=-1,-3\n" + conv(16, 3, 4, act="swish")
    + "[maxpool]\nstride=1\nsize=5\n[route]\nlayers=-2\n[maxpool]\nstride=1\nsize=9\n[route]\nlayers=-1,-3,-2\n"
    + conv(14, norm=False, act="linear") + yolo("0,1", "scale_x_y=1.2") + "[route]\nlayers=-3\n" + conv(16, 3, 2)
    + conv(14, norm=False, act="linear") + yolo("1,2", "scale_x_y=1.05")
)  # fmt: skip
# The network of opencv.md's claims about new_coords: YOLOv7 with swish and scale_x_y=2, images stretched.
YOLOV7 = RICH.replace("letter_box=1", "batch=1")
CFGS = {"route groups": TINY, "new_coords": RICH, "region": YOLOV2, "spp, scale_x_y": PANET}


@pytest.mark.parametrize("kind", CFGS)
def test_opencv_computes_the_boxes_and_scores_of_every_head(kind, tmp_path, capsys):
    (tmp_path / "mine.cfg").write_text(CFGS[kind])
    assert benchmark.compare(tmp_path / "mine.cfg", tmp_path, None)
    pixels, score = re.findall(r" by (\S+?)(?: px|$)", capsys.readouterr().out, re.MULTILINE)[-2:]
    assert float(pixels) <= 0.01  # of sides of up to a few hundred pixels
    assert float(score) <= 1e-5


def write_model(folder: Path, text: str) -> list[str]:
    """Write a cfg and .weights with boxes of many sizes, and an image; return the arguments of `import-darknet`."""
    folder.mkdir(exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "street.jpg"), cv2.resize(image, (149, 101), interpolation=cv2.INTER_CUBIC))
    (folder / "x.cfg").write_text(text)
    detector = network(text)
    benchmark.randomize(detector, torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    write_weights(folder / "x.weights", detector.body.layer_weights())
    (folder / "coco.names").write_text("".join(f"thing {i}\n" for i in range(detector.num_classes)))
    return [str(folder / name) for name in ("x.cfg", "x.weights")] + ["--names", str(folder / "coco.names")]


def script(index: int, folder: Path, size: int, letterbox: bool) -> str:
    """Write a Python block of the page with the constants of a test; return its path."""
    text = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[index]
    for before, after in {
        "yolov4-tiny.onnx": "x.onnx", "yolov4-tiny.xml": "x.xml", "(416, 416), False": f"({size}, {size}), {letterbox}",
    }.items():  # fmt: skip
        text = text.replace(before, after)
    (folder / f"script{index}.py").write_text(text)
    return str(folder / f"script{index}.py")


def check_script(folder: Path, image: Path, capsys: pytest.CaptureFixture[str], size: int, letterbox: bool) -> int:
    """Run the script of the page on x.onnx and compare it with cspdet on x.pt; return the number of detections."""
    (folder / "street.jpg").write_bytes(image.read_bytes())
    capsys.readouterr()
    runpy.run_path(script(0, folder, size, letterbox))
    lines = [line.rsplit(" ", 5) for line in capsys.readouterr().out.splitlines()]
    found = [(name, float(score), [float(side) for side in box]) for name, score, *box in lines]
    detector = load_detector(
        folder / "x.pt", backend="torch", device="cpu", min_score=0.25, nms_iou=0.45, max_detections=1000
    )
    result = detector.predict(folder / "street.jpg")
    names, left = read_names(folder / "coco.names"), list(found)
    for score, c, box in zip(result.score.tolist(), result.class_id.tolist(), result.box_xyxy.tolist(), strict=True):
        near = [row for row in left if row[0] == names[c] and abs(row[1] - score) <= 1e-3]
        same = [row for row in near if np.abs(np.subtract(row[2], box)).max() <= 0.5]
        assert same, (names[c], score, box)
        left.remove(same[0])
    assert not left
    return len(found)


@pytest.mark.parametrize(("kind", "letterbox"), [("spp, scale_x_y", False), ("new_coords", True)])
def test_the_script_of_the_page_prints_what_cspdet_detects(kind, letterbox, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["import-darknet", *write_model(tmp_path, CFGS[kind]), "--output", "x.pt"]) == 0
    assert main(["export", "x.pt", "--outputs", "decoded", "--no-dynamic", "--output", "x.onnx"]) == 0
    assert check_script(tmp_path, tmp_path / "street.jpg", capsys, 64, letterbox) > 10


def test_openvino_returns_the_same_arrays(tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    assert main(["import-darknet", *write_model(tmp_path, YOLOV7), "--output", "x.pt"]) == 0
    for name in ("x.onnx", "x.xml"):
        assert main(["export", "x.pt", "--outputs", "decoded", "--no-dynamic", "--output", name]) == 0
    opencv = runpy.run_path(script(0, tmp_path, 64, letterbox=False))
    openvino = runpy.run_path(script(1, tmp_path, 64, letterbox=False), {"cv2": cv2, "canvas": opencv["canvas"]})
    assert np.abs(openvino["boxes"] - opencv["boxes"]).max() <= 0.05
    assert np.abs(openvino["scores"] - opencv["scores"]).max() <= 1e-4


@pytest.mark.skipif(DATA is None, reason="CSPDET_TEST_DATA names no folder")
def test_a_trained_network_detects_the_same_on_photos(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path(DATA or "") / "weights/yolo-fastest-1.1"
    ((cfg,), (weights,)) = (list(folder.glob(f"*.{kind}")) for kind in ("cfg", "weights"))
    assert main(["import-darknet", str(cfg), str(weights), "--output", "x.pt"]) == 0
    assert main(["export", "x.pt", "--outputs", "decoded", "--no-dynamic", "--output", "x.onnx"]) == 0
    names = load_detector("x.pt", backend="torch", device="cpu").class_names
    (tmp_path / "coco.names").write_text("".join(f"{name}\n" for name in names))
    images = sorted((Path(DATA or "") / "stills").glob("*.jpg"))
    assert sum(check_script(tmp_path, image, capsys, 320, letterbox=False) for image in images) >= 5
