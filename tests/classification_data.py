"""Pictures of one color, and a classifier that tells red, green and blue apart, for tests of classification."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from cspdet.config import parse_config
from cspdet.model_file import LoadedClassifier
from cspdet.models import Classifier
from cspdet.recipe import ClassifierRecipe
from cspdet.types import Classes

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SHARPNESS = 4.0  # logits: this times the mean of each channel


class ColorTeller(Classifier):
    """(B, 3, H, W) -> (B, 3): SHARPNESS times the mean red, green and blue, plus what `more` classes stay at: -9."""

    def __init__(self, more: int = 0) -> None:
        super().__init__()
        self.more = more
        self.weight = torch.nn.Parameter(torch.tensor(SHARPNESS))
        self.calls = 0
        self.interrupt_at: int | None = None  # the forward pass in which Ctrl-C is pressed

    @property
    def classes(self) -> int:
        return 3 + self.more

    @property
    def strides(self) -> tuple[int, ...]:
        return (1,)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        logits = self.weight * images.mean(dim=(2, 3))
        return torch.cat([logits, logits.new_full((len(logits), self.more), -9.0)], dim=1)


def color_recipe(**more: object) -> ClassifierRecipe:
    values = {"model": {"backbone": {"name": "peleenet"}, "classes": 3}, "input": {"size": [32, 32]}, **more}
    return parse_config({"eval": {"workers": 0}, **values}, ClassifierRecipe, "test")


def color_model(more: int = 0) -> LoadedClassifier:
    """As `load_classifier_model` returns a model: input 32x32."""
    names = (*COLORS, *(f"other{i}" for i in range(more)))
    return LoadedClassifier(
        ColorTeller(more), color_recipe(), Classes(names, tuple(range(1, len(names) + 1))), "colors"
    )


def picture(color: str, height: int = 40, width: int = 50) -> np.ndarray:
    return np.full((height, width, 3), COLORS[color], np.uint8)


def save(path: Path, color: str, height: int = 40, width: int = 50) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture(color, height, width)[..., ::-1])
    return path


def write_colors(root: Path, split: str = "val") -> Path:
    """Two pictures a class; the second one of `blue` is red."""
    for name in COLORS:
        save(root / split / name / "1.png", name)
        save(root / split / name / "2.png", "red" if name == "blue" else name, 64, 33)
    return root
