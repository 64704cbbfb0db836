"""Configs of training: optimizer, schedule, assigner, loss, loggers and the loop. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from cspdet.config.base import ComponentConfig, ConfigModel
from cspdet.config.registry import component
from cspdet.datasets.config import AugmentConfig, ImageAugmentConfig, LoaderConfig
from cspdet.training.assigners import ASSIGNERS
from cspdet.training.loggers import LOGGERS
from cspdet.training.losses import LOSSES

if TYPE_CHECKING:
    from cspdet.training.assigners.anchor_iou import AnchorIoUAssigner
    from cspdet.training.assigners.simota import SimOTAAssigner
    from cspdet.training.loggers.jsonl import JsonlLogger
    from cspdet.training.loggers.tensorboard import TensorBoardLogger
    from cspdet.training.losses.base import LossContext
    from cspdet.training.losses.yolo import YoloLoss


class OptimizerConfig(ConfigModel):
    """SGD with momentum."""

    learning_rate: float = Field(
        0.01, gt=0, description="Peak learning rate, for optimizer steps over `nominal_batch_size` images."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum.")
    nesterov: bool = Field(True, description="Nesterov momentum.")
    weight_decay: float = Field(
        0.0005,
        ge=0,
        description="Weight decay of convolution and linear weights; biases and normalization have none.",
    )
    clip_norm: float | None = Field(10.0, gt=0, description="Maximum norm of the gradient; null: no clipping.")


class ScheduleConfig(ConfigModel):
    """The learning rate over the steps: warm-up, then one of four schedules."""

    name: Literal["cosine", "step", "constant", "polynomial"] = Field("cosine", description="The schedule.")
    final_lr_ratio: float = Field(
        0.01, gt=0, le=1, description="cosine: learning rate at the end, as a fraction of the peak."
    )
    steps: tuple[float, ...] = Field(
        (0.8, 0.9), description="step: when the learning rate drops, as ascending fractions of the run."
    )
    factor: float = Field(0.1, gt=0, le=1, description="step: factor of the learning rate at each drop.")
    power: float = Field(
        4.0, gt=0, description="polynomial: exponent of the remaining fraction of the run (Darknet: policy=poly)."
    )
    warmup_steps: int = Field(1000, ge=0, description="Steps of warm-up.")
    warmup_max_fraction: float = Field(
        0.05, ge=0, le=1, description="Upper limit of the warm-up, as a fraction of the run."
    )
    warmup_power: float = Field(
        1.0, gt=0, description="Exponent of the warm-up: 1 is linear; Darknet's burn_in uses 4."
    )

    @field_validator("steps")
    @classmethod
    def _check_ascending(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if list(steps) != sorted(steps) or any(not 0 < fraction < 1 for fraction in steps):
            raise ValueError(f"expected fractions between 0 and 1 in ascending order, found {list(steps)}")
        return steps


class EMAConfig(ConfigModel):
    """The exponential moving average of the weights, which is evaluated and saved; see `cspdet.training.ema`."""

    decay: float = Field(0.9998, gt=0, lt=1, description="Upper limit of the decay per optimizer step.")
    window_fraction: float = Field(
        0.1, gt=0, le=1, description="Length of the averaging window, as a fraction of the steps so far."
    )


class MultiScaleConfig(ConfigModel):
    """Random input sizes: the input size times a factor, rounded to the coarsest stride."""

    low: float = Field(0.75, gt=0, le=1, description="Lowest factor.")
    high: float = Field(1.25, ge=1, description="Highest factor.")
    interval: int = Field(10, ge=1, description="Number of batches between changes of the size.")


class AssignerConfigBase(ComponentConfig):
    """Base of every label assigner's config."""

    ignore_iou: float = Field(
        0.7,
        ge=0.5,
        le=1,
        description="Negatives whose predicted box overlaps a ground-truth box by more than this IoU are ignored in "
        "the objectness loss (Darknet: ignore_thresh).",
    )


class AnchorIoUConfig(AssignerConfigBase):
    """Assignment by anchor shape: every box is assigned to its most similar anchor, at the cell of its center."""

    name: Literal["anchor_iou"] = Field("anchor_iou", description="Name of the assigner.")
    match_iou: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Also assign to anchors whose shape overlaps the box by more than this IoU (Darknet: iou_thresh); "
        "null: no such anchors.",
    )
    match_ratio: float | None = Field(
        None,
        gt=1,
        description="Also assign to anchors whose width and height are within this factor of the box's; null: no such "
        "anchors.",
    )
    neighbors: Literal[1, 3] = Field(
        1,
        description="Cells per box and scale: 1, that of the center; 3, also its nearest horizontal and vertical "
        "neighbors.",
    )

    def build(self) -> AnchorIoUAssigner:
        """Build the assigner."""
        from cspdet.training.assigners.anchor_iou import AnchorIoUAssigner

        return AnchorIoUAssigner(self)


class SimOTAConfig(AssignerConfigBase):
    """Assignment by the predictions, SimOTA (YOLOX, section 2.1); see `cspdet.training.assigners.simota`."""

    name: Literal["simota"] = Field("simota", description="Name of the assigner.")
    candidate_topk: int = Field(
        10, ge=1, description="A box gets as many positives as the IoUs of this many best candidates sum up to."
    )
    radius: float = Field(
        2.5, gt=0.5, le=16, description="Candidates have their cell's center within this many cells of the box center."
    )
    iou_weight: float = Field(3.0, ge=0, description="Weight of -log(IoU) in the cost, relative to the class term.")
    center_weight: float = Field(
        1.0, ge=0, description="Weight of 10^(distance in cells - 3) in the cost, relative to the class term."
    )

    def build(self) -> SimOTAAssigner:
        """Build the assigner."""
        from cspdet.training.assigners.simota import SimOTAAssigner

        return SimOTAAssigner(self)


def _text_or_list(value: object) -> str:
    return "text" if isinstance(value, str) else "list"


# Chosen by the type of the value, so that an error is reported once and not for both members
ClassWeights = Annotated[
    Annotated[Literal["none", "auto"], Tag("text")] | Annotated[tuple[Annotated[float, Field(gt=0)], ...], Tag("list")],
    Discriminator(_text_or_list),
]


class LossConfigBase(ComponentConfig):
    """Base of every loss's config."""


class YoloLossConfig(LossConfigBase):
    """The loss of a YOLO head: box regression, objectness and classification."""

    name: Literal["yolo"] = Field("yolo", description="Name of the loss.")
    box: Literal["mse", "iou", "giou", "diou", "ciou"] = Field("ciou", description="Type of the box loss.")
    box_weight: float = Field(5.0, ge=0, description="Weight of the box loss (Darknet: iou_normalizer).")
    objectness_weight: float = Field(1.0, ge=0, description="Weight of the objectness loss (Darknet: obj_normalizer).")
    class_weight: float = Field(1.0, ge=0, description="Weight of the classification loss (Darknet: cls_normalizer).")
    normalizer: Literal["positives", "images"] = Field(
        "positives", description="The sums are divided by the number of positives, or of images as in Darknet."
    )
    objectness_target: Literal["one", "iou"] = Field(
        "one", description="Objectness target of a positive: 1, or the IoU of its box with the ground truth."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Class targets become s/2 and 1 - s/2 (Darknet: label_smooth_eps)."
    )
    focal: Literal["none", "objectness", "class", "both"] = Field(
        "none", description="Which parts use the focal loss (Lin et al. 2017) instead of cross-entropy."
    )
    focal_gamma: float = Field(
        2.0,
        ge=0,
        description="Focusing exponent of the focal loss; 0 is cross-entropy, more reduces easy examples more.",
    )
    focal_alpha: float | None = Field(
        0.25, gt=0, lt=1, description="Focal loss: weight of positives, 1 - alpha of negatives; null: all 1."
    )
    class_weights: ClassWeights = Field(
        "none",
        description="Weight of each class in the classification loss: none; auto: more for rarer classes; or a list in "
        "the order of the classes.",
    )

    def build(self, context: LossContext) -> YoloLoss:
        """Build the loss."""
        from cspdet.training.losses.yolo import YoloLoss

        return YoloLoss(self, context)


class LoggerConfigBase(ComponentConfig):
    """Base of every logger's config."""


class JsonlLoggerConfig(LoggerConfigBase):
    """One line of JSON per epoch in `metrics.jsonl`."""

    name: Literal["jsonl"] = Field("jsonl", description="Name of the logger.")

    def build(self, run_dir: Path) -> JsonlLogger:
        """Build the logger of a run."""
        from cspdet.training.loggers.jsonl import JsonlLogger

        return JsonlLogger(self, run_dir)


class TensorBoardLoggerConfig(LoggerConfigBase):
    """Scalars and images for TensorBoard, in the folder `tensorboard`."""

    name: Literal["tensorboard"] = Field("tensorboard", description="Name of the logger.")

    def build(self, run_dir: Path) -> TensorBoardLogger:
        """Build the logger of a run."""
        from cspdet.training.loggers.tensorboard import TensorBoardLogger

        return TensorBoardLogger(self, run_dir)


class TrainerConfig(LoaderConfig):
    """Training of either task: what the training loop reads."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Precision of the forward pass; auto: bf16 where the hardware supports it, else fp16 on CUDA and "
        "fp32 on a CPU.",
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="The optimizer.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="The learning-rate schedule.")
    ema: EMAConfig | None = Field(EMAConfig(), description="Moving average of the weights; null: none.")
    multi_scale: MultiScaleConfig | None = Field(None, description="Random input sizes; null: a fixed size.")
    freeze: tuple[str, ...] = Field(
        (), description="Parts of the network whose weights and statistics do not change, by name: [backbone]."
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this many evaluations without an improvement; null: never."
    )
    eval_interval: int = Field(1, ge=1, description="Epochs between evaluations; the last epoch is always evaluated.")
    checkpoint_interval_minutes: float = Field(
        10.0, gt=0, description="Minutes between saves of last.pt within an epoch; each epoch ends with a save."
    )
    compile: bool = Field(False, description="Use torch.compile: minutes before the first step, then faster steps.")
    sync_batch_norm: bool = Field(
        True, description="With several processes: batch-norm statistics over the images of all processes."
    )
    timeout_minutes: float = Field(
        10.0, gt=0, description="With several processes: minutes that one waits for another before it stops."
    )
    cpu_fast_paths: Literal["auto"] | bool = Field(
        "auto",
        description="Faster CPU kernels for the training step, equal up to rounding; auto: on a CPU without "
        "torch.compile; true: an error elsewhere; false: torch's own kernels.",
    )
    loggers: tuple[Annotated[LoggerConfigBase, component(LOGGERS)], ...] = Field(
        (JsonlLoggerConfig(), TensorBoardLoggerConfig()),
        description="Loggers of the training metrics, by name: [jsonl, tensorboard], or `module:Class`.",
    )


class TrainConfig(TrainerConfig):
    """Training of a detector."""

    assigner: Annotated[AssignerConfigBase, component(ASSIGNERS, default="anchor_iou")] = Field(
        AnchorIoUConfig(), description="Which predictions are positives of which ground-truth boxes."
    )
    loss: Annotated[LossConfigBase, component(LOSSES, default="yolo")] = Field(
        YoloLossConfig(), description="The loss."
    )
    augment: AugmentConfig = Field(AugmentConfig(), description="Augmentation of the training images.")


class ClassifierTrainConfig(TrainerConfig):
    """Training of a classifier."""

    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the target that is spread evenly over all classes."
    )
    augment: ImageAugmentConfig = Field(ImageAugmentConfig(), description="Augmentation of the training images.")
