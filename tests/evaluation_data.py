"""A tiny data set, and a network that finds white squares, for tests of evaluation and detection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cspdet.model_file import LoadedModel
from cspdet.models.head import Anchors, YoloHeadConfig
from cspdet.recipe import load_recipe
from cspdet.types import Classes

CONFIG = Path(__file__).parents[1] / "configs/csppelee_efm_sam.yaml"
CATEGORIES: list[dict[str, Any]] = [{"id": 3, "name": "disc"}, {"id": 17, "name": "bar"}]  # ids with gaps


def write_set(folder: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    """A descriptor of a val split: three pictures of 96x64 (width, height) with ids 10, 20, 30.

    The first has a white square in its first cell of 32x32, the second in its last, the third has none.
    `changes` replace keys of the annotation file.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    listed = []
    for i, cell in enumerate(((0, 0), (1, 2), (9, 9))):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), picture_with_square(*cell))
        listed.append({"id": 10 * (i + 1), "file_name": f"{i}.png", "height": 64, "width": 96})
    content = {"images": listed, "categories": CATEGORIES, "annotations": annotations, **changes}
    (folder / "val.json").write_text(json.dumps(content))
    (folder / "data.yaml").write_text("val: {images: images, annotations: val.json}\n")
    return folder / "data.yaml"


def truth(image_id: int, category_id: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


def result(image_id: int, category_id: int, bbox: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


class SquareFinder(nn.Module):
    """Stands in for a Detector: finds the white cells of 32x32 pixels of its input, as the first of two classes.

    A white cell gives objectness and class logits of 10, so a score of sigmoid(10)^2 = 0.99991, and t = 0 for
    its box: the anchor's 32x32 pixels in the middle of the cell, which is the cell itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.anchors = Anchors(YoloHeadConfig(anchors=(((32, 32),),), scale_x_y=(1.0,)), (32,))
        self.calls = 0
        self.interrupt_at: int | None = None  # the forward pass in which Ctrl-C is pressed

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        white = functional.avg_pool2d(images.mean(dim=1, keepdim=True), 32) > 0.9
        raw = torch.zeros(*white.shape, 7)
        raw[..., 4] = white * 20.0 - 10.0
        raw[..., 5], raw[..., 6] = 10.0, -10.0
        return (raw,)


def square_model(data: Path = Path("data.yaml")) -> LoadedModel:
    """The finder as `load_model` returns a model: input 64x96, the classes of CATEGORIES."""
    recipe = load_recipe(CONFIG, ["input.size=[64, 96]", f"data={data}", "eval.workers=0"])
    classes = Classes(tuple(c["name"] for c in CATEGORIES), tuple(c["id"] for c in CATEGORIES))
    return LoadedModel(SquareFinder(), recipe, classes, "squares")  # type: ignore[arg-type]


def picture_with_square(row: int, col: int, scale: int = 1) -> np.ndarray:
    """(64, 96, 3) uint8 times `scale`: dark, the cell at (row, col) white."""
    image = np.full((64 * scale, 96 * scale, 3), 20, np.uint8)
    side = 32 * scale
    image[row * side : (row + 1) * side, col * side : (col + 1) * side] = 255
    return image
