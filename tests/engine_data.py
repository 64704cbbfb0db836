"""A small detector that finds something, for tests of engines and exports."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cspdet.checkpoint import Checkpoint, save_checkpoint
from cspdet.model_file import LoadedModel, build_detector
from cspdet.recipe import load_recipe
from cspdet.types import Classes

ROOT = Path(__file__).parents[1]
CLASSES = Classes(("disc", "bar", "bär"), (3, 17, 90))  # ids with gaps, and a letter beyond ASCII
SIZE_HW = (64, 96)


def small_detector(name: str = "yolov3_tiny_prn", *overrides: str, fresh: bool = False) -> LoadedModel:
    """A config of ours for three classes at 64x96, as if trained (see `as_if_trained`), or with fresh weights."""
    recipe = load_recipe(ROOT / f"configs/{name}.yaml", ["input.size=[64, 96]", *overrides])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_detector(recipe, len(CLASSES), name, pretrained=False)
        if not fresh:
            as_if_trained(model)
    return LoadedModel(model.eval(), recipe, CLASSES, name)


@torch.no_grad()
def as_if_trained(model: nn.Module) -> None:
    """No two normalizations alike, and outputs that vary: about every tenth slot scores above 0.25."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.7, 1.3)
            module.bias.normal_(0, 0.2)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and ".predict." in f".{name}":
            module.weight.mul_(5)
            assert module.bias is not None
            module.bias.zero_()


def write_checkpoint(path: Path, loaded: LoadedModel) -> Path:
    save_checkpoint(path, Checkpoint(loaded.recipe, loaded.classes, loaded.model.state_dict()))
    return path


def pictures(batch: int, height: int = SIZE_HW[0], width: int = SIZE_HW[1]) -> Tensor:
    """(B, 3, H, W) in [0, 1], always the same."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(7))
