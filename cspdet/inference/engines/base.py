"""Interface of the inference engines, which run the network on a batch of images and return its raw outputs."""

from __future__ import annotations

import importlib.util
import threading
from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cspdet.errors import CheckpointError, ConfigError
from cspdet.inference.config import EnginePrecision
from cspdet.inference.engines.batching import limit_detections, split_detections
from cspdet.inference.engines.source import EngineOptions, NetworkSource
from cspdet.inference.metadata import ModelMetadata
from cspdet.models.config import PostprocessConfig
from cspdet.models.head import Anchors
from cspdet.models.postprocess import decode_and_nms, postprocess
from cspdet.structures import Categories, Detections


class Engine(ABC):
    """Base class of the engines: runs one network on one device. Several threads may call an engine at once.

    A subclass sets the class attributes and implements `forward`. To run networks, it overrides `from_network`; to run
    exported files, it overrides `from_file` and `read_metadata`. Built-in engines have an entry in
    `cspdet.inference.engines.registry`; a user-defined engine is selected with `--backend module:Class`.

    Attributes:
        name: Name of the engine for `--backend`.
        devices: Device types that the engine supports.
        precisions: Precisions that the engine supports for networks.
        file_precisions: Precisions that the engine supports for exported files.
        suffixes: Suffixes of the exported files that the engine reads.
        auto_devices: Device types on which `--backend auto` tries the engine.
        package: Name of the required package, and of the extra of cspdet that installs it; None: no package.
        parallel_forward: Whether `forward` may run in several threads at once; otherwise calls wait for each other.
        metadata: Classes, input and head of the network.
        device: Device of the outputs.
        precision: Precision of the convolutions.
    """

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    precisions: ClassVar[tuple[EnginePrecision, ...]] = ("fp32",)
    file_precisions: ClassVar[tuple[EnginePrecision, ...]] = ("fp32",)
    suffixes: ClassVar[tuple[str, ...]] = ()
    auto_devices: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[tuple[str, str] | None] = None
    parallel_forward: ClassVar[bool] = False

    def __init__(self, metadata: ModelMetadata, options: EngineOptions):
        self.metadata = metadata
        self.device = options.device
        self.precision: EnginePrecision = options.precision
        self._forward_lock = threading.Lock()
        self._anchors = metadata.anchors().to(options.device) if metadata.head is not None else None

    @classmethod
    def from_network(cls, source: NetworkSource, options: EngineOptions) -> Engine:
        """Create the engine for a network; the caller has already checked device and precision.

        Raises:
            ConfigError: The engine reads only exported files, or cannot run this network on this machine.
        """
        raise ConfigError(f"--backend: {cls.name} runs files of {' '.join(cls.suffixes)} only; export the model first")

    @classmethod
    def from_file(cls, path: Path, metadata: ModelMetadata, options: EngineOptions) -> Engine:
        """Create the engine for a file of `cspdet export`; the caller has already checked device and precision.

        Raises:
            CheckpointError: The file is corrupt.
            ConfigError: The engine does not read exported files, or cannot run the file on this machine.
        """
        raise ConfigError(f"--backend: {cls.name} reads no exported files")

    @classmethod
    def read_metadata(cls, path: Path) -> ModelMetadata:
        """Read the metadata of an exported file.

        Raises:
            CheckpointError: The file is corrupt, or was not written by `cspdet export`.
            ConfigError: The package that reads such files is not installed.
        """
        raise ConfigError(f"--backend: {cls.name} reads no exported files")

    @classmethod
    def is_installed(cls) -> bool:
        """Return whether the package that the engine needs is installed."""
        return cls.package is None or importlib.util.find_spec(cls.package[0]) is not None

    @classmethod
    def network_precisions(cls, device: torch.device) -> tuple[EnginePrecision, ...]:
        """Return the precisions that the engine supports for networks on a device."""
        return cls.precisions

    @classmethod
    def check_device(cls, device: torch.device) -> None:
        """Raise ConfigError if the engine does not support this device type."""
        if device.type in cls.devices:
            return
        expected = "needs a CUDA device" if cls.devices == ("cuda",) else f"runs on {' or '.join(cls.devices)}"
        raise ConfigError(f"--backend: {cls.name} {expected}, found {device}")

    @property
    def anchors(self) -> Anchors:
        """Anchors of the detector, on the engine's device."""
        assert self._anchors is not None, "a classifier has no anchors"
        return self._anchors

    @property
    def classes(self) -> Categories:
        """Names and ids of the classes, by class index."""
        return self.metadata.classes

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each level in input pixels, finest first."""
        return self.metadata.strides

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the input, in pixels."""
        return self.metadata.size_hw

    @property
    def resize(self) -> Literal["letterbox", "stretch"]:
        """How images are resized to the input: letterbox or stretch."""
        return self.metadata.input.resize

    def __str__(self) -> str:
        return f"{self.name} {self.precision} on {self.device}"

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network on a batch of images.

        Args:
            images: (B, 3, H, W) RGB, float32 in [0, 1] or uint8.

        Returns:
            For a detector, one raw float32 tensor (B, A, H_l, W_l, 5 + C) per level. For a classifier, one tensor (B,
            C) of logits. A file can also return decoded boxes (B, S, 4) and scores (B, S, C), or the detections (N, 7)
            that `split_detections` takes.

        Raises:
            ValueError: The images have another shape or type, or the model does not support their size.
        """
        self._check_images(images)
        with torch.inference_mode(), nullcontext() if self.parallel_forward else self._forward_lock:
            images = images.to(self.device, non_blocking=True)
            if images.dtype == torch.uint8:
                images = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
            if self.metadata.dynamic or len(images) == 1:
                return self.forward(images)
            return self._forward_one_by_one(images)

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network on checked float32 images that are on the engine's device; called in inference mode."""

    def detect(self, images: Tensor, config: PostprocessConfig) -> list[Detections]:
        """Detect objects in a batch of images, with the same post-processing for every engine.

        If the file has built-in NMS, its detections are only filtered by `min_score` and `max_detections`.

        Args:
            images: (B, 3, H, W) RGB, float32 in [0, 1] or uint8.
            config: Thresholds and limits.

        Returns:
            The detections of each image, sorted by descending score, in input pixels.
        """
        outputs = self(images)
        if self.metadata.outputs == "detections":
            if len(outputs[0]) and outputs[0][:, 6].max() >= len(self.classes):
                raise CheckpointError(f"{self.metadata.name}: a detection has a class that the metadata does not name")
            return [
                limit_detections(detections, config.min_score, config.max_detections)
                for detections in split_detections(outputs[0], len(images))
            ]
        if self.metadata.outputs == "decoded":
            box_xyxy, score = outputs
            return postprocess(box_xyxy, score, config)
        return decode_and_nms(outputs, self.anchors, config)

    def set_num_streams(self, num_streams: int) -> int:
        """Prepare the engine for calls from several threads at the same time, with one image per call.

        Args:
            num_streams: The requested number of threads.

        Returns:
            The number of threads to use. Most engines return 1: the caller then uses one thread and passes images as a
            batch.
        """
        return 1

    def warm_up(self, batch_size: int) -> None:
        """Run one batch of black images, so that engines that compile for each input shape compile now."""
        self(torch.zeros(batch_size, 3, *self.size_hw, dtype=torch.uint8))
        self.synchronize()

    def synchronize(self) -> None:
        """Wait until the device has finished all computations."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Raise ValueError if the engine does not support images of this height and width."""
        if not self.metadata.dynamic and size_hw != self.size_hw:
            raise ValueError(f"the file is made for {_format_size(self.size_hw)}, not for {_format_size(size_hw)}")
        step = max(self.strides)
        if self.metadata.head is not None and any(side % step for side in size_hw):
            raise ValueError(f"expected multiples of {step}, found {_format_size(size_hw)}")

    def check_voting(self, vote_iou: float | None) -> None:
        """Raise ConfigError if box voting is requested for a file with built-in NMS, which removes the boxes that vote.

        A `vote_iou` of 1 disables box voting, because an IoU is never above 1.
        """
        if vote_iou is not None and vote_iou < 1 and self.metadata.outputs == "detections":
            raise ConfigError(
                f"vote_iou {vote_iou:g}: {self.metadata.name} is a file with built-in NMS, which removes the boxes "
                "that vote; export it without --nms"
            )

    def forward_parallel(self, images: Tensor) -> list[tuple[Tensor, ...]]:
        """Run the images one by one, and return the outputs for each image. A subclass may run them in parallel."""
        return [self.forward(images[i : i + 1]) for i in range(len(images))]

    def _forward_one_by_one(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of a batch with a model whose batch size is 1."""
        parts = self.forward_parallel(images)
        if self.metadata.outputs == "detections":
            for i, (rows, *_) in enumerate(parts):
                rows[:, 0] += i
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype not in (torch.float32, torch.uint8):
            raise ValueError(f"expected (B, 3, H, W) float32 or uint8, found {tuple(images.shape)} {images.dtype}")
        if len(images) == 0:
            raise ValueError("expected at least one image")
        self.check_size((images.shape[2], images.shape[3]))


def _format_size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"
