"""The walks of an image through the files of cspdet: from the image file to the loss, and to the boxes.

`pytest -s tests/e2e/test_image_walk.py` prints them. Reading a file counts as one step, and so does the
network, whatever files they call.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import pytest
from engine_data import build, small_detector
from image_walk import trace_walk

from cspdet.cli.main import run_command
from cspdet.datasets.image_io import read_image
from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.inference.engines.torch_engine import TorchEngine
from cspdet.inference.predictor import Predictor
from cspdet.models.config import PostprocessConfig
from cspdet.models.detector import ComposedDetector
from cspdet.structures import Detections
from cspdet.training.losses.yolo import YoloLoss

CONFIG = Path(__file__).parents[2] / "configs/csppelee_prn.yaml"
PLAIN = [f"train.augment.{key}=1" for key in ("saturation", "exposure")] + [
    f"train.augment.{key}=0" for key in ("mosaic", "mixup", "cutmix", "copy_small", "hue")
]
MAX_PREDICTION_FILES = 7


@pytest.mark.e2e
def test_training(tmp_path):
    make_shapes(tmp_path, images=2, size=64, seed=0)
    words = [
        CONFIG, f"data={tmp_path / 'shapes.yaml'}", "input.size=64", "train.epochs=1", "train.batch_size=1",
        "train.nominal_batch_size=1", "train.precision=fp32", "train.workers=0", "train.cache=none", "eval.workers=0",
        *PLAIN, "--device", "cpu", "--output", tmp_path / "run",
    ]  # fmt: skip
    # The second step: the first one also draws its batch for the user.
    with trace_walk(read_image, YoloLoss.__call__, read_image, ComposedDetector.forward, skip=1) as walk:
        assert run_command("train", [str(word) for word in words]) == 0
    print(walk)
    assert walk.finished
    # DetectionDataset and Augment call read_image; Trainer.step is around the rest
    assert walk.files == [
        "datasets/image_io.py",
        "datasets/collate.py",
        "models/detector.py",
        "training/tasks/detection.py",
        "training/losses/yolo.py",
        "models/postprocess.py",
        "training/assigners/priors.py",
        "training/assigners/anchor_iou.py",
    ]
    assert walk.entered_again() == set()


def test_prediction(tmp_path):
    detector = Predictor(build(small_detector()), PostprocessConfig())
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8))
    with trace_walk(read_image, Detections.to_image, read_image, TorchEngine.forward) as walk:
        assert len(detector.predict(path)) > 0
    print(walk)
    assert walk.finished
    # Each file once, one after the other, modules that other walks share included
    assert [file for file, _ in groupby(file for file, _ in walk.entries)] == [
        "datasets/image_io.py",
        "letterbox.py",
        "inference/engines/base.py",
        "inference/engines/torch_engine.py",
        "models/postprocess.py",
        "boxes.py",
        "structures.py",
    ]
    assert len(walk.files) <= MAX_PREDICTION_FILES
