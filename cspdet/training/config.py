"""Training configs: optimizer, learning-rate schedule, EMA and training loop. This module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from cspdet.config.base import ConfigModel
from cspdet.config.registry import component
from cspdet.datasets.config import AugmentConfig, ImageAugmentConfig, LoaderConfig
from cspdet.training.assigners import ASSIGNERS
from cspdet.training.assigners.config import AnchorIoUConfig, AssignerConfigBase
from cspdet.training.loggers import LOGGERS
from cspdet.training.loggers.config import JsonlLoggerConfig, LoggerConfigBase, TensorBoardLoggerConfig
from cspdet.training.losses import LOSSES
from cspdet.training.losses.config import LossConfigBase, YoloLossConfig


class OptimizerConfig(ConfigModel):
    """Optimizer settings: SGD with momentum."""

    learning_rate: float = Field(
        0.01, gt=0, description="Peak learning rate, for optimizer steps over `nominal_batch_size` images."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD; 0: none.")
    nesterov: bool = Field(True, description="Use Nesterov momentum instead of classical momentum.")
    weight_decay: float = Field(
        0.0005,
        ge=0,
        description="Weight decay of convolution and linear weights; biases and normalization have none.",
    )
    backbone_rate: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor of the learning rate of the backbone, for weights that are already trained. In a Darknet "
        "network, the factor applies to all layers except the prediction layers.",
    )
    clip_norm: float | None = Field(
        10.0, gt=0, description="Maximum L2 norm of the gradient of all weights; null: no clipping."
    )


class ScheduleConfig(ConfigModel):
    """Settings of the learning-rate schedule: warm-up, then one of four schedules."""

    name: Literal["cosine", "step", "constant", "polynomial"] = Field("cosine", description="The schedule.")
    final_lr_ratio: float = Field(
        0.01, gt=0, le=1, description="cosine: learning rate at the end, as a fraction of the peak."
    )
    steps: tuple[float, ...] = Field(
        (0.8, 0.9), description="step: milestones at which the learning rate drops, as ascending fractions of the run."
    )
    factor: float = Field(0.1, gt=0, le=1, description="step: factor of the learning rate at each drop.")
    power: float = Field(
        4.0, gt=0, description="polynomial: exponent of the remaining fraction of the run (Darknet: policy=poly)."
    )
    warmup_steps: int = Field(
        1000, ge=0, description="Optimizer steps of the warm-up, in which the learning rate rises from 0."
    )
    warmup_max_fraction: float = Field(
        0.05, ge=0, le=1, description="Upper limit of the warm-up, as a fraction of the optimizer steps of the run."
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
    """Settings of the exponential moving average of the weights; the averaged weights are evaluated and saved."""

    decay: float = Field(
        0.9998,
        gt=0,
        lt=1,
        description="Upper limit of the decay per optimizer step: the weight of the previous average.",
    )
    window_fraction: float = Field(
        0.1, gt=0, le=1, description="Length of the averaging window, as a fraction of the steps so far."
    )


class MultiScaleConfig(ConfigModel):
    """Settings of random input sizes: the input size times a factor, rounded to the coarsest stride."""

    low: float = Field(0.75, gt=0, le=1, description="Lowest factor of the input size.")
    high: float = Field(1.25, ge=1, description="Highest factor of the input size.")
    interval: int = Field(10, ge=1, description="Number of batches between changes of the size.")


class TrainerConfig(LoaderConfig):
    """Settings of the training loop, common to all tasks."""

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
        (), description="Modules whose weights and batch-norm statistics are frozen, by name: [backbone]."
    )
    keep_classes: tuple[str, ...] = Field(
        (),
        description="Names of classes whose outputs are not trained, to add other classes to a trained model. Then the "
        "outputs for boxes and objectness are not trained either. If `freeze` has all other layers, these outputs stay "
        "bit-identical.",
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
        True, description="Distributed training: compute batch-norm statistics over the images of all processes."
    )
    timeout_minutes: float = Field(
        10.0, gt=0, description="Distributed training: timeout of a process that waits for others, in minutes."
    )
    cpu_fast_paths: Literal["auto"] | bool = Field(
        "auto",
        description="Keep freed memory for the next training step: about 10% faster on a CPU, with the same "
        "results; auto: on a CPU without torch.compile; true: the same, with an error elsewhere; false: never.",
    )
    cpu_threads: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Number of torch's CPU threads; auto: the number of cores that other processes leave free when a "
        "run on a CPU starts, unless OMP_NUM_THREADS is set. Results depend on it by rounding.",
    )
    loggers: tuple[Annotated[LoggerConfigBase, component(LOGGERS)], ...] = Field(
        (JsonlLoggerConfig(), TensorBoardLoggerConfig()),
        description="Loggers of the training metrics, by name: [jsonl, tensorboard], or `module:Class`.",
    )


class TrainConfig(TrainerConfig):
    """Settings for the training of a detector."""

    assigner: Annotated[AssignerConfigBase, component(ASSIGNERS, default="anchor_iou")] = Field(
        AnchorIoUConfig(), description="The label assigner, which selects the positives of each ground-truth box."
    )
    loss: Annotated[LossConfigBase, component(LOSSES, default="yolo")] = Field(
        YoloLossConfig(), description="The loss."
    )
    augment: AugmentConfig = Field(AugmentConfig(), description="Augmentation of the training images.")


class ClassifierTrainConfig(TrainerConfig):
    """Settings for the training of a classifier."""

    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the target that is distributed uniformly over all classes."
    )
    augment: ImageAugmentConfig = Field(ImageAugmentConfig(), description="Augmentation of the training images.")
