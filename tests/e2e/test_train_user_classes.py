"""A loss, an assigner and a logger of the user's own module, named in YAML: trained, saved, loaded, resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cspdet.config.loader import load_config
from cspdet.datasets.synthetic.dataset import make_shapes

ROOT = Path(__file__).parents[2]

MODULE = '''
import torch
from pydantic import Field

from cspdet.training.assigners.anchor_iou import assign_by_anchor_iou
from cspdet.training.assigners.priors import Assigner
from cspdet.training.assigners.config import AssignerConfigBase
from cspdet.training.loggers.config import LoggerConfigBase
from cspdet.training.losses.config import LossConfigBase, YoloLossConfig
from cspdet.training.loggers.base import Logger
from cspdet.training.losses.base import DetectionLoss


class TopAnchors(Assigner):
    class Config(AssignerConfigBase):
        ratio: float = Field(2.0, gt=1)

    def assign(self, raw, predicted_xyxy, targets, anchors, layout):
        return assign_by_anchor_iou(targets, anchors, layout, match_ratio=self.config.ratio)


class Doubled(DetectionLoss):
    """The YOLO loss, twice."""

    class Config(LossConfigBase):
        factor: float = Field(2.0, gt=0)

    part_names = ("box", "objectness", "class")

    def __init__(self, config, context):
        super().__init__(config, context)
        self.yolo = YoloLossConfig().build(context)

    def __call__(self, raw, targets, anchors, all_reduce_sum):
        losses = self.yolo(raw, targets, anchors, all_reduce_sum)
        return type(losses)(*(part * self.config.factor for part in losses))


class Csv(Logger):
    class Config(LoggerConfigBase):
        file: str = "losses.csv"

    def log_metrics(self, metrics, step):
        with (self.run_dir / self.config.file).open("a") as file:
            file.write(f"{metrics['epoch']},{step},{metrics['loss']}\\n")
'''

CONFIG = """
model: {{backbone: {{name: csppeleenet, gamma: 0.25}}, neck: {{name: efm, width: 8}}}}
input: {{size: 64}}
data: {data}
train:
  epochs: 2
  batch_size: 2
  nominal_batch_size: 2
  precision: fp32
  workers: 0
  assigner: {{name: "mine:TopAnchors", ratio: 3.0}}
  loss: {{name: "mine:Doubled"}}
  loggers: [jsonl, "mine:Csv"]
eval: {{workers: 0}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_shapes(tmp_path / "data", images=4, size=64, seed=0)
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "mine.yaml").write_text(CONFIG.format(data=tmp_path / "data/shapes.yaml"))
    return tmp_path


def cspdet(folder: Path, *words: object, start: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, after the statement `start`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = f"{start}\nimport sys\nfrom cspdet.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.e2e
def test_classes_of_a_users_module_train_are_saved_and_resumed(folder, tmp_path):
    done = cspdet(folder, "train", "mine.yaml", "--output", "run", "--device", "cpu", "--stop-after", "1")
    assert done.returncode == 0, done.stderr
    run = folder / "run"
    (line,) = (run / "losses.csv").read_text().splitlines()
    assert line.startswith("1,")
    assert not (run / "tensorboard").exists(), "the config names other loggers"
    assert "mine:TopAnchors" in (run / "config.yaml").read_text()

    # Nothing of a checkpoint imports a module: the user names it.
    refused = cspdet(folder, "train", "--resume", "run", "--device", "cpu")
    assert refused.returncode == 2
    assert "--import mine" in refused.stderr.splitlines()[0]
    resumed = cspdet(folder, "train", "--resume", "run", "--device", "cpu", start="import mine")
    assert resumed.returncode == 0, resumed.stderr
    assert [line.split(",")[0] for line in (run / "losses.csv").read_text().splitlines()] == ["1", "2"]


def test_a_mistake_in_a_users_class_names_it(folder, monkeypatch):
    from cspdet.config.user_modules import allow_user_modules
    from cspdet.errors import ConfigError
    from cspdet.recipe import DetectionRecipe

    monkeypatch.chdir(folder)
    with allow_user_modules(folder), pytest.raises(ConfigError, match=r"has no 'TopAnchor' .did you mean 'TopAnchors'"):
        load_config(folder / "mine.yaml", DetectionRecipe, ["train.assigner={name: 'mine:TopAnchor'}"])
