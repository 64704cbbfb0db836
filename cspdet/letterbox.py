"""Letterbox resizing: the mapping of pixels and boxes between an image and the network input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

BoxT = TypeVar("BoxT", Tensor, np.ndarray)

PAD_VALUE = 114  # gray value of the border, as in most detectors


@dataclass(frozen=True)
class Letterbox:
    """Affine map from image pixels to input pixels: multiply by the scales, then add the margins."""

    scale_x: float
    scale_y: float
    left: int
    top: int
    bilinear: bool = False  # resize without area averaging, see `resize_image`

    @classmethod
    def fit(
        cls, image_hw: tuple[int, int], input_hw: tuple[int, int], resize: Literal["letterbox", "stretch"] = "letterbox"
    ) -> Letterbox:
        """Create the letterbox of an image.

        Args:
            image_hw: Height and width of the image.
            input_hw: Height and width of the network input.
            resize: letterbox: keep the aspect ratio, center the image and pad; stretch: resize to `input_hw` without
                padding (Darknet).
        """
        (image_h, image_w), (input_h, input_w) = image_hw, input_hw
        if min(image_h, image_w) < 1:
            raise ValueError(f"expected an image of at least 1x1 pixels; got {image_h}x{image_w}")
        if resize == "stretch":
            return cls(input_w / image_w, input_h / image_h, 0, 0, bilinear=True)
        scale = min(input_h / image_h, input_w / image_w)
        new_h, new_w = max(1, round(image_h * scale)), max(1, round(image_w * scale))
        # Scales are computed from the rounded size, so that boxes match the resized pixels exactly.
        return cls(new_w / image_w, new_h / image_h, (input_w - new_w) // 2, (input_h - new_h) // 2)

    def to_input(self, box_xyxy: BoxT) -> BoxT:
        """Map (N, 4) boxes from image pixels to input pixels."""
        return box_xyxy * self._like(box_xyxy, self._scales) + self._like(box_xyxy, self._margins)

    def to_image(self, box_xyxy: BoxT) -> BoxT:
        """Map (N, 4) boxes from input pixels to image pixels."""
        return (box_xyxy - self._like(box_xyxy, self._margins)) / self._like(box_xyxy, self._scales)

    def resize_and_pad(self, image: np.ndarray, input_hw: tuple[int, int]) -> np.ndarray:
        """Resize an (H, W, 3) uint8 image to the input size with gray padding; return a (*input_hw, 3) uint8 image."""
        new_h, new_w = round(image.shape[0] * self.scale_y), round(image.shape[1] * self.scale_x)
        resized = resize_image(image, (new_h, new_w), bilinear=self.bilinear)
        if resized.shape[:2] == tuple(input_hw):
            return resized
        canvas = np.full((*input_hw, 3), PAD_VALUE, np.uint8)
        canvas[self.top : self.top + new_h, self.left : self.left + new_w] = resized
        return canvas

    @property
    def _scales(self) -> tuple[float, float, float, float]:
        return (self.scale_x, self.scale_y, self.scale_x, self.scale_y)

    @property
    def _margins(self) -> tuple[float, float, float, float]:
        return (self.left, self.top, self.left, self.top)

    @staticmethod
    def _like(box: BoxT, values: tuple[float, float, float, float]) -> BoxT:
        if isinstance(box, Tensor):
            return torch.tensor(values, dtype=box.dtype, device=box.device)
        return np.asarray(values, dtype=box.dtype)


def resize_image(image: np.ndarray, size_hw: tuple[int, int], *, bilinear: bool = False) -> np.ndarray:
    """Resize an (H, W, 3) uint8 image to (*size_hw, 3).

    If a side shrinks by a factor of 2 or more, pixels are averaged over areas; if not, the interpolation is bilinear.

    Args:
        image: The image.
        size_hw: Target height and width.
        bilinear: Always use bilinear interpolation (as in Darknet).
    """
    if image.shape[:2] == tuple(size_hw):
        return image
    shrinks = not bilinear and (image.shape[0] >= 2 * size_hw[0] or image.shape[1] >= 2 * size_hw[1])
    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
