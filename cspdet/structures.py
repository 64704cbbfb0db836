"""Data structures that all packages share: samples, batches, targets, detections, categories.

Dimensions in all docstrings: B images, C classes, A anchors per level, L levels, S priors, N boxes, P positives. A
prior is one anchor at one grid cell of a level, so S is the sum of A * H * W over the levels. A positive is a prior
that is assigned to a ground-truth box. Boxes have one of two coordinate frames: *image* (pixels of the original image)
or *input* (pixels of the network input). Variable names of boxes end with the format: `box_xyxy` is x1 y1 x2 y2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from cspdet.letterbox import Letterbox

DetectionsT = TypeVar("DetectionsT", bound="Detections")
TaskName = Literal["detection", "classification"]
MODEL_TYPES: dict[str, str] = {"detection": "a detector", "classification": "a classifier"}  # in error messages


class FeatureSpec(NamedTuple):
    """Number of channels of a feature map, and its stride in input pixels."""

    channels: int
    stride: int


class ClassLayer(NamedTuple):
    """A layer whose outputs are, for each anchor, `num_other` outputs and then one output per class."""

    module: nn.Conv2d | nn.Linear
    num_other: int


class FeatureShape(NamedTuple):
    """Channels, height and width of a feature map, without the batch dimension."""

    channels: int
    height: int
    width: int

    @property
    def num_elements(self) -> int:
        """Number of values in the feature map."""
        return self.channels * self.height * self.width

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


# Finest level first; level l has the shape (B, spec.channels, H / spec.stride, W / spec.stride).
Features: TypeAlias = "tuple[Tensor, ...]"


@dataclass(frozen=True)
class Categories:
    """The classes of a dataset. Class index c has the name `names[c]` and the annotation file id `category_ids[c]`."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.category_ids):
            raise ValueError(f"{len(self.names)} class names need as many category ids; got {len(self.category_ids)}")

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Sample:
    """One image with its ground-truth boxes, as NumPy arrays."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    box_xyxy: np.ndarray  # (N, 4) float32, pixels of `image`
    class_id: np.ndarray  # (N,) int64, index into Categories.names
    is_crowd: np.ndarray  # (N,) bool
    image_id: int  # id in the annotation file
    image_hw: tuple[int, int] | None = None  # height, width of the original image; None: same as `image`


class Targets(NamedTuple):
    """The ground-truth boxes of all images in a batch, concatenated without padding. N may be 0."""

    image_index: Tensor  # (N,) int64, index of the image in the batch
    class_id: Tensor  # (N,) int64
    box_xyxy: Tensor  # (N, 4) float32, input pixels
    is_crowd: Tensor  # (N,) bool; crowds are never assigned, and predictions inside them are ignored

    def to(self, device: torch.device) -> Targets:
        """Return a copy with the tensors on `device`."""
        return Targets(*(part.to(device, non_blocking=True) for part in self))


class Batch(NamedTuple):
    """A batch of images with targets, as the data loader returns it."""

    images: Tensor  # (B, 3, H, W) uint8 RGB
    targets: Targets
    image_id: Tensor  # (B,) int64
    size_hw: Tensor  # (B, 2) int64, height and width of the original images


@dataclass(frozen=True)
class Detections:
    """The detections of one image, sorted by descending score. The boxes are in input pixels or image pixels."""

    box_xyxy: Tensor  # (N, 4) float32
    score: Tensor  # (N,) float32 in [0, 1]
    class_id: Tensor  # (N,) int64, index into the class names

    def __post_init__(self) -> None:
        n = len(self.score)
        if self.box_xyxy.shape != (n, 4) or self.class_id.shape != (n,):
            raise ValueError(
                f"{n} scores need boxes ({n}, 4) and classes ({n},); "
                f"got {tuple(self.box_xyxy.shape)} and {tuple(self.class_id.shape)}"
            )

    def __len__(self) -> int:
        return len(self.score)

    def to_image(self, letterbox: Letterbox, size_hw: tuple[int, ...], *, clip_boxes: bool = True) -> Detections:
        """Convert detections in input pixels to detections in image pixels, on the CPU.

        Args:
            letterbox: Letterbox with which the image was resized to the network input.
            size_hw: Height and width of the image.
            clip_boxes: Clip the boxes to the image border.
        """
        on_cpu = self.to("cpu")
        margins = on_cpu.box_xyxy.new_tensor((letterbox.left, letterbox.top) * 2)
        scales = on_cpu.box_xyxy.new_tensor((letterbox.scale_x, letterbox.scale_y) * 2)
        box_xyxy = (on_cpu.box_xyxy - margins) / scales
        if clip_boxes:
            height, width = size_hw
            box_xyxy = box_xyxy.clamp(min=0).minimum(box_xyxy.new_tensor((width, height, width, height)))
        return Detections(box_xyxy, on_cpu.score, on_cpu.class_id)

    def to(self: DetectionsT, device: torch.device | str) -> DetectionsT:
        """Return a copy with the tensors on `device`."""
        return replace(
            self, box_xyxy=self.box_xyxy.to(device), score=self.score.to(device), class_id=self.class_id.to(device)
        )


class Shard(NamedTuple):
    """The part of a dataset that one of `world_size` processes handles: indices rank, rank + world_size, ..."""

    rank: int
    world_size: int


SINGLE_PROCESS = Shard(0, 1)  # all indices, for a run with one process
