"""An augmentation of the user's own module, named on the command line: it trains, is saved, and is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from cspdet.datasets.synthetic.dataset import make_shapes

ROOT = Path(__file__).parents[2]
MODULE = """
from dataclasses import replace

import numpy as np

from cspdet.config.base import ComponentConfig


class Paint:
    class Config(ComponentConfig):
        red: int = 0

    def __init__(self, config, size_hw):
        self.color = (config.red, 0, 0)

    def __call__(self, sample, rng):
        image = np.empty_like(sample.image)
        image[...] = self.color
        return replace(sample, image=image, box_xyxy=sample.box_xyxy[:0], class_id=sample.class_id[:0],
                       is_crowd=sample.is_crowd[:0])
"""


def train(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/train.py"), *(str(word) for word in words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.e2e
def test_it_is_applied_saved_and_asked_for(tmp_path):
    (tmp_path / "my_augs.py").write_text(MODULE)
    make_shapes(tmp_path / "shapes", images=4, size=64, seed=0)
    done = train(
        tmp_path, ROOT / "configs/csppelee_prn.yaml", "data=shapes/shapes.yaml", "input.size=64", "train.epochs=2",
        "train.batch_size=2", "train.nominal_batch_size=2", "train.workers=1", "eval.workers=0",
        "train.augment.transforms=[{name: 'my_augs:Paint', red: 250}]", "--stop-after", "1", "--device", "cpu",
        "--output", "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    blue, green, red = cv2.imread(str(tmp_path / "run/train_batch.jpg"))[16, 16].tolist()
    assert red > 200
    assert max(blue, green) < 50
    assert "my_augs:Paint" in (tmp_path / "run/config.yaml").read_text()
    # A checkpoint alone may not import a module
    refused = train(tmp_path, "--resume", "run", "--device", "cpu")
    assert refused.returncode == 2
    assert "'my_augs', which is not imported; add --import my_augs" in refused.stderr
    done = train(tmp_path, "--resume", "run", "--import", "my_augs", "--device", "cpu")
    assert done.returncode == 0, done.stderr
