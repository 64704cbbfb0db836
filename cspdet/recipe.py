"""The root of a config file: everything that one run of cspdet needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from cspdet.config.base import ConfigModel
from cspdet.config.loader import load_config
from cspdet.darknet.model import DarknetClassifierConfig, DarknetModelConfig
from cspdet.datasets.config import AugmentConfig, ImageAugmentConfig, LoaderConfig
from cspdet.models.config import ClassifierConfig, DetectorConfig, PostprocessConfig
from cspdet.training.assigners.assign import AssignConfig
from cspdet.training.losses.yolo import LossConfig
from cspdet.training.schedule import OptimizerConfig, ScheduleConfig


def _as_height_width(side: Any) -> Any:
    """One number stands for a square; a list becomes the tuple that strict validation asks for."""
    if isinstance(side, int) and not isinstance(side, bool):
        return (side, side)
    return tuple(side) if isinstance(side, list) else side


InputSize = Annotated[tuple[int, int], BeforeValidator(_as_height_width)]


class InputConfig(ConfigModel):
    """What the network sees."""

    size: InputSize = (416, 416)  # height, width in pixels; one number for a square
    resize: Literal["letterbox", "stretch"] = "letterbox"  # keep the aspect and pad, or fill as Darknet does

    @field_validator("size")
    @classmethod
    def _check_sides(cls, size: tuple[int, int]) -> tuple[int, int]:
        if min(size) < 32 or max(size) > 8192:
            raise ValueError(f"expected sides from 32 to 8192 pixels, found {size[0]}x{size[1]}")
        return size


class EMAConfig(ConfigModel):
    """The averaged weights that are evaluated and kept; see `cspdet.training.ema`."""

    decay: float = Field(0.9998, gt=0, lt=1)  # the slowest that the average follows
    window_fraction: float = Field(0.1, gt=0, le=1)  # of the steps so far that it spans


class MultiScaleConfig(ConfigModel):
    """Every `every` batches another input size: the given one times a factor, in steps of the coarsest stride."""

    low: float = Field(0.75, gt=0, le=1)
    high: float = Field(1.25, ge=1)
    interval: int = Field(10, ge=1)


class TrainerConfig(LoaderConfig):
    """How anything is trained: what the loop reads, whatever the task."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = (
        "auto"  # auto: bf16 where the hardware has it, else fp32 or fp16
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EMAConfig | None = EMAConfig()
    multi_scale: MultiScaleConfig | None = None
    freeze: tuple[str, ...] = ()  # parts whose weights and statistics stay as they are, by name: [backbone]
    patience: int | None = Field(None, ge=1)  # stop after so many evaluations without a better one; null: never
    eval_interval: int = Field(1, ge=1)  # epochs; the last epoch is always evaluated
    checkpoint_interval_minutes: float = Field(10.0, gt=0)  # last.pt is also written inside long epochs
    compile: bool = False  # torch.compile: minutes before the first step, faster ones after it
    sync_batch_norm: bool = True  # several processes: statistics over the pictures of all of them
    timeout_minutes: float = Field(10.0, gt=0)  # several processes: how long one waits for another


class TrainConfig(TrainerConfig):
    """How a detector is trained."""

    assigner: AssignConfig = AssignConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()


class ClassifierTrainConfig(TrainerConfig):
    """How a classifier is trained."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)  # of the goal: so much is spread evenly over all classes
    augment: ImageAugmentConfig = ImageAugmentConfig()


class EvalConfig(PostprocessConfig):
    """How outputs become detections when AP is measured."""

    batch_size: int = Field(16, ge=1)
    min_score: float = Field(0.001, ge=0, lt=1, description="Score threshold of the detections that are evaluated.")
    evaluator: Literal["auto", "pycocotools", "hotcoco"] = "auto"  # auto: hotcoco, the same but faster, if installed
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"


class ClassifierEvalConfig(ConfigModel):
    """How pictures are cut when top-1 is measured: the short side resized, then the center of the input's size."""

    resize: int | None = Field(None, ge=1)  # the short side in pixels; null: that of the input over `crop`
    crop: float = Field(0.887, gt=0, le=1)  # share of the short side that the input shows: 256 of 288
    ten_crop: bool = False  # the corners and the center, and all five mirrored, averaged
    batch_size: int = Field(32, ge=1)
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"


def _model_type(model: Any) -> str:
    name = model.get("name") if isinstance(model, dict) else getattr(model, "name", None)
    return "darknet" if name == "darknet" else "parts"


class DetectionRecipe(ConfigModel):
    """A detector, its input, its data, its training and its evaluation."""

    model: Annotated[
        Annotated[DetectorConfig, Tag("parts")] | Annotated[DarknetModelConfig, Tag("darknet")],
        Discriminator(_model_type),
    ]
    input: InputConfig = InputConfig()
    data: Path
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()


class ClassificationRecipe(ConfigModel):
    """A backbone as an ImageNet classifier."""

    model: Annotated[
        Annotated[ClassifierConfig, Tag("parts")] | Annotated[DarknetClassifierConfig, Tag("darknet")],
        Discriminator(_model_type),
    ]
    input: InputConfig = InputConfig(size=(224, 224))
    data: Path | None = None  # a folder of train/CLASS/* and val/CLASS/*; only training needs one
    train: ClassifierTrainConfig = ClassifierTrainConfig()
    eval: ClassifierEvalConfig = ClassifierEvalConfig()


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> DetectionRecipe:
    """Read a detector's config file; see `cspdet.config.loader.load_config` for overrides and errors."""
    return load_config(path, DetectionRecipe, overrides)


def recipe_to_dict(recipe: DetectionRecipe | ClassificationRecipe) -> dict[str, Any]:
    """The recipe as JSON-like values, as checkpoints keep it."""
    return recipe.model_dump(mode="json")


Recipe = DetectionRecipe  # the public name, offered by `cspdet`
