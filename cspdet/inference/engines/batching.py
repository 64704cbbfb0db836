"""Batch padding for engines that compile for each input shape, and detections of files with built-in NMS."""

from __future__ import annotations

import torch
from torch import Tensor

from cspdet.inference.metadata import NmsConfig
from cspdet.models.config import PostprocessConfig
from cspdet.structures import Detections

MAX_PADDING_RATIO = 2  # batches are padded to at most this multiple of their number of images


def select_batch_size(count: int, size_hw: tuple[int, int], compiled_shapes: set[tuple[int, int, int]]) -> int:
    """Choose the batch size to which `count` images are padded, for engines that compile for each input shape.

    A larger batch size that is already compiled is used if at most half of the batch is padding, because compiling
    another shape costs more.

    Args:
        count: Number of images.
        size_hw: Height and width of the images.
        compiled_shapes: The shapes (B, H, W) that are already compiled.
    """
    fits = [
        batch
        for batch, *size in compiled_shapes
        if tuple(size) == size_hw and count <= batch <= MAX_PADDING_RATIO * count
    ]
    return min(fits, default=count)


def pad_batch(images: Tensor, batch_size: int) -> Tensor:
    """Append black images to a batch until it contains `batch_size` images."""
    if len(images) == batch_size:
        return images
    return torch.cat((images, images.new_zeros(batch_size - len(images), *images.shape[1:])))


def split_detections(rows: Tensor, num_images: int) -> list[Detections]:
    """Split the detections of a batch by image; `rows` is the output of a file with built-in NMS.

    Args:
        rows: (N, 7) with the columns image index, x1, y1, x2, y2 (input pixels), score, class index.
        num_images: Number of images in the batch.

    Returns:
        One `Detections` per image, sorted by descending score, in input pixels.
    """
    results = []
    for image_index in range(num_images):
        image_rows = rows[rows[:, 0] == image_index]
        image_rows = image_rows[image_rows[:, 5].sort(descending=True, stable=True).indices]
        results.append(Detections(image_rows[:, 1:5], image_rows[:, 5], image_rows[:, 6].long()))
    return results


def nms_limits(nms: NmsConfig, config: PostprocessConfig) -> list[str]:
    """Return one message per threshold that has no effect, because NMS built into the file has already removed boxes.

    Args:
        nms: The thresholds of the file.
        config: The requested thresholds.
    """
    limits = []
    if config.min_score < nms.min_score:
        limits.append(
            f"min_score {config.min_score:g} has no effect: the built-in NMS of the file returns detections above "
            f"{nms.min_score:g} only"
        )
    if config.max_detections > nms.max_detections:
        limits.append(
            f"max_detections {config.max_detections} has no effect: the built-in NMS of the file returns at most "
            f"{nms.max_detections} per image"
        )
    if config.nms_iou != nms.nms_iou:
        limits.append(f"nms_iou {config.nms_iou:g} has no effect: the built-in NMS of the file uses {nms.nms_iou:g}")
    return limits


def limit_detections(detections: Detections, min_score: float, max_detections: int) -> Detections:
    """Keep the first `max_detections` detections with a score above `min_score`; the input must be sorted by score."""
    count = min(int((detections.score > min_score).sum()), max_detections)
    return Detections(detections.box_xyxy[:count], detections.score[:count], detections.class_id[:count])
