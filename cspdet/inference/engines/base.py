"""The interface of all engines: a batch of pictures in, what a `Detector` gives out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from cspdet.errors import ConfigError
from cspdet.inference.metadata import ModelMetadata
from cspdet.models.config import PostprocessConfig
from cspdet.models.head import Anchors
from cspdet.models.postprocess import decode_and_nms, postprocess
from cspdet.structures import Categories, Detections

EnginePrecision = Literal["fp32", "bf16", "fp16", "int8"]


MAX_PADDING_RATIO = 2  # an engine that is built for a shape fills up batches to at most so many times their pictures


class Engine(ABC):
    """One network on one device, ready to run.

    name       "torch", "torch-compile", "onnxruntime", "openvino", "cuda-graph" or "tensorrt"
    precision  in which convolutions are computed
    facts      classes, input and head; `facts.eval` are the limits that the network was evaluated with
    """

    def __init__(self, name: str, metadata: ModelMetadata, device: torch.device, precision: EnginePrecision):
        self.name = name
        self.metadata = metadata
        self.device = device
        self.precision: EnginePrecision = precision
        self._anchors = metadata.anchors().to(device) if metadata.head is not None else None

    @property
    def anchors(self) -> Anchors:
        """On the engine's device."""
        assert self._anchors is not None, "a classifier has no anchors"
        return self._anchors

    @property
    def classes(self) -> Categories:
        return self.metadata.classes

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels a cell, one number a scale, finest first."""
        return self.metadata.strides

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the input that the network is meant for."""
        return self.metadata.size_hw

    @property
    def resize(self) -> Literal["letterbox", "stretch"]:
        return self.metadata.input.resize

    def __str__(self) -> str:
        return f"{self.name} {self.precision} on {self.device}"

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) RGB, float32 in [0, 1] or uint8 -> one raw float32 tensor a scale, (B, A, H_l, W_l, 5 + C).

        Of a classifier one tensor of logits, (B, C); of a file with decoded outputs what its `facts.outputs` say.

        Raises:
            ValueError: another shape, or a size that the network or the file is not made for.
        """
        self._check_images(images)
        with torch.inference_mode():
            images = images.to(self.device, non_blocking=True)
            if images.dtype == torch.uint8:
                images = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
            if self.metadata.dynamic or len(images) == 1:
                return self.forward(images)
            return self._forward_one_by_one(images)

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """As `__call__`, for float32 on the engine's device and a size that was checked; in inference mode."""

    def detect(self, images: Tensor, config: PostprocessConfig) -> list[Detections]:
        """Detect objects in a batch, with the same post-processing for every engine.

        A file with built-in NMS has limits of its own; its detections are filtered by `min_score` and
        `max_detections`.

        Args:
            images: As for `__call__`.
            config: Thresholds and limits.

        Returns:
            The detections of each image, best first, in input pixels.
        """
        outputs = self(images)
        if self.metadata.outputs == "detections":
            return [
                limit_detections(detections, config.min_score, config.max_detections)
                for detections in split_detections(outputs[0], len(images))
            ]
        if self.metadata.outputs == "decoded":
            box_xyxy, score = outputs
            return postprocess(box_xyxy, score, config)
        return decode_and_nms(outputs, self.anchors, config)

    def set_num_streams(self, num_streams: int) -> int:
        """Prepare for up to `lanes` threads, each with a picture of its own; gives how many are worth it, often 1.

        At 1, calls come one after the other, and several pictures are best given as a batch.
        """
        return 1

    def warm_up(self, count: int) -> None:
        """Take `count` black pictures: an engine that builds itself for what comes does so now, not at a frame."""
        self(torch.zeros(count, 3, *self.size_hw, dtype=torch.uint8))
        self.synchronize()

    def synchronize(self) -> None:
        """Wait until the device is done: for whoever measures."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Raise ValueError unless the engine takes pictures of this size."""
        if not self.metadata.dynamic and size_hw != self.size_hw:
            raise ValueError(f"the file is made for {_format_size(self.size_hw)}, not for {_format_size(size_hw)}")
        step = max(self.strides)
        if self.metadata.task == "detector" and any(side % step for side in size_hw):
            raise ValueError(f"expected multiples of {step}, found {_format_size(size_hw)}")

    def check_voting(self, vote_iou: float | None) -> None:
        """Raise ConfigError where box voting is asked of a file with NMS inside, which gives no boxes to vote.

        1 asks for none: no box overlaps another by more.
        """
        if vote_iou is not None and vote_iou < 1 and self.metadata.outputs == "detections":
            raise ConfigError(
                f"vote_iou {vote_iou:g}: {self.metadata.name} is a file with NMS inside, which keeps the boxes that vote; "
                "export it without --nms"
            )

    def forward_parallel(self, images: Tensor) -> list[tuple[Tensor, ...]]:
        """`forward` of every picture by itself; an engine that can has several on their way at once."""
        return [self.forward(images[i : i + 1]) for i in range(len(images))]

    def _forward_one_by_one(self, images: Tensor) -> tuple[Tensor, ...]:
        """As `forward`, for a file or an engine that takes one picture at a time."""
        parts = self.forward_parallel(images)
        if self.metadata.outputs == "detections":
            for i, (rows,) in enumerate(parts):
                rows[:, 0] += i
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    def _drop_padding(self, outputs: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
        """Outputs of a batch that was padded, without those of the padding."""
        if self.metadata.outputs == "detections":
            return tuple(rows[rows[:, 0] < count] for rows in outputs)
        return tuple(values[:count] for values in outputs)

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype not in (torch.float32, torch.uint8):
            raise ValueError(f"expected (B, 3, H, W) float32 or uint8, found {tuple(images.shape)} {images.dtype}")
        if len(images) == 0:
            raise ValueError("expected at least one picture")
        self.check_size((images.shape[2], images.shape[3]))


def select_batch_size(count: int, size_hw: tuple[int, int], compiled_shapes: set[tuple[int, int, int]]) -> int:
    """For engines that are built for a shape: how many pictures to run for `count`, given the shapes (B, H, W) so far.

    A larger batch that exists already is cheaper than another build, unless most of it would be padding.
    """
    fits = [
        batch
        for batch, *size in compiled_shapes
        if tuple(size) == size_hw and count <= batch <= MAX_PADDING_RATIO * count
    ]
    return min(fits, default=count)


def pad_batch(images: Tensor, batch: int) -> Tensor:
    """Black pictures behind the given ones, up to `batch` of them."""
    if len(images) == batch:
        return images
    return torch.cat((images, images.new_zeros(batch - len(images), *images.shape[1:])))


def split_detections(rows: Tensor, num_images: int) -> list[Detections]:
    """Rows (N, 7) of picture, x1 y1 x2 y2, score, class, as files with NMS give them, to each picture's, best first."""
    found = []
    for image_index in range(num_images):
        image_rows = rows[rows[:, 0] == image_index]
        image_rows = image_rows[image_rows[:, 5].sort(descending=True, stable=True).indices]
        found.append(Detections(image_rows[:, 1:5], image_rows[:, 5], image_rows[:, 6].long()))
    return found


def limit_detections(detections: Detections, min_score: float, max_detections: int) -> Detections:
    """The first `max_detections` above `min_score`."""
    count = min(int((detections.score > min_score).sum()), max_detections)
    return Detections(detections.box_xyxy[:count], detections.score[:count], detections.class_id[:count])


def missing_package_error(name: str, extra: str, what: str) -> ConfigError:
    """The error of an engine or export whose package is not installed."""
    return ConfigError(f"{what} needs the package {name}, which is not installed: pip install 'cspdet[{extra}]'")


def _format_size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"
