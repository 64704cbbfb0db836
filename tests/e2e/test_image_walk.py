"""The walk of an image through the files of cspdet: from the image file to the loss.

`pytest -s tests/e2e/test_image_walk.py` prints it. The network counts as one step, whatever files its layers are in.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from image_walk import trace_walk

from cspdet.cli.main import run_command
from cspdet.datasets.image_io import read_image
from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.models.detector import ComposedDetector
from cspdet.training.losses.yolo import yolo_loss

CONFIG = Path(__file__).parents[2] / "configs/csppelee_prn.yaml"
PLAIN = [f"train.augment.{key}=1" for key in ("saturation", "exposure")] + [
    f"train.augment.{key}=0" for key in ("mosaic", "mixup", "cutmix", "copy_small", "hue")
]

# Ceilings, to be lowered to 8 files and none again.
MAX_TRAINING_FILES = 9
ENTERED_AGAIN = {
    "models/detector.py",
    "models/postprocess.py",
    "training/assigners/assign.py",
    "training/distributed/context.py",
}


@pytest.mark.e2e
def test_training(tmp_path):
    make_shapes(tmp_path, images=2, size=64, seed=0)
    words = [
        CONFIG, f"data={tmp_path / 'shapes.yaml'}", "input.size=64", "train.epochs=1", "train.batch_size=1",
        "train.nominal_batch_size=1", "train.precision=fp32", "train.workers=0", "train.cache=none", "eval.workers=0",
        *PLAIN, "--device", "cpu", "--output", tmp_path / "run",
    ]  # fmt: skip
    # The second step: the first one also draws its batch for the user.
    with trace_walk(read_image, yolo_loss, ComposedDetector.forward, skip=1) as walk:
        assert run_command("train", [str(word) for word in words]) == 0
    print(walk)
    assert walk.finished
    assert [file for file in walk.files if file.startswith("datasets/")][:2] == [
        "datasets/image_io.py",
        "datasets/collate.py",
    ]
    assert len(walk.files) <= MAX_TRAINING_FILES
    assert walk.entered_again() <= ENTERED_AGAIN
