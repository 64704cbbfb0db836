"""What travels between the parts of cspdet.

Letters, used everywhere and only so: B images, C classes, A anchors a level, L levels, S slots (the sum over levels
of A*H*W), N boxes, P positives. Boxes live in one of two frames: *image* (pixels of the original picture) and
*input* (pixels of what the network sees). Box names end in their format: `box_xyxy` is x1 y1 x2 y2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from cspdet.letterbox import Letterbox

TaskName = Literal["detection", "classification"]
MODEL_TYPES: dict[str, str] = {"detection": "a detector", "classification": "a classifier"}  # in error messages


class FeatureSpec(NamedTuple):
    """What a feature map promises: its channels, and the input pixels that one of its cells spans."""

    channels: int
    stride: int


class FeatureShape(NamedTuple):
    """Channels, height and width of the feature map of one image."""

    channels: int
    height: int
    width: int

    @property
    def num_elements(self) -> int:
        """Number of values in the map."""
        return self.channels * self.height * self.width

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


# Finest first; the l-th is (B, spec.channels, H / spec.stride, W / spec.stride).
Features: TypeAlias = "tuple[Tensor, ...]"


@dataclass(frozen=True)
class Categories:
    """The classes of a data set: output c of a network is `names[c]`, which the annotations call `category_ids[c]`."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.category_ids):
            raise ValueError(f"{len(self.names)} class names need as many category ids; got {len(self.category_ids)}")

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Sample:
    """One picture with its boxes, as numpy arrays."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    box_xyxy: np.ndarray  # (N, 4) float32, pixels of `image`
    class_id: np.ndarray  # (N,) int64, index into Classes.names
    is_crowd: np.ndarray  # (N,) bool
    image_id: int  # the annotation file's own id
    image_hw: tuple[int, int] | None = None  # height, width of the original image; None: those of `image`


class Targets(NamedTuple):
    """The boxes of a batch, flat: no padding, no limit; N may be 0."""

    image_index: Tensor  # (N,) int64, which picture of the batch
    class_id: Tensor  # (N,) int64
    box_xyxy: Tensor  # (N, 4) float32, input pixels
    is_crowd: Tensor  # (N,) bool; a crowd is never a goal, and what lies inside it is never punished

    def to(self, device: torch.device) -> Targets:
        return Targets(*(part.to(device, non_blocking=True) for part in self))


class Batch(NamedTuple):
    """What the loader hands to training and evaluation."""

    images: Tensor  # (B, 3, H, W) uint8 RGB
    targets: Targets
    image_id: Tensor  # (B,) int64
    size_hw: Tensor  # (B, 2) int64, height and width of the original pictures


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, best first. Boxes are x1 y1 x2 y2; the owner states the frame."""

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
        """Map detections from input pixels to image pixels, on the CPU.

        Args:
            letterbox: Where the image lies in the input.
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

    def to(self, device: torch.device | str) -> Detections:
        """Move the tensors to `device`."""
        return Detections(self.box_xyxy.to(device), self.score.to(device), self.class_id.to(device))


class Shard(NamedTuple):
    """The part of one process among `world` that share some work: numbers rank, rank + world, rank + 2 world, ..."""

    rank: int
    world_size: int


SINGLE_PROCESS = Shard(0, 1)  # one process that does everything
