"""Collate samples into batches, for detection and classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from cspdet.datasets.classification.augment import MAX_CLASSES_PER_IMAGE, ImageSample
from cspdet.structures import Batch, Sample, Targets


class ImageBatch(NamedTuple):
    """A training batch of a classifier.

    An image has up to M = MAX_CLASSES_PER_IMAGE classes; unused entries have weight 0.
    """

    images: Tensor  # (B, 3, H, W) uint8 RGB
    class_id: Tensor  # (B, M) int64
    label_weight: Tensor  # (B, M) float32, weights of the classes in the target; rows sum to 1
    image_id: Tensor  # (B,) int64, index of the image in its dataset


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack detection samples of equal image size into a batch, in which the boxes of all images are concatenated."""
    count = torch.tensor([len(sample.class_id) for sample in samples])
    targets = Targets(
        image_index=torch.repeat_interleave(torch.arange(len(samples)), count),
        class_id=torch.from_numpy(np.concatenate([sample.class_id for sample in samples])),
        box_xyxy=torch.from_numpy(np.concatenate([sample.box_xyxy for sample in samples])),
        is_crowd=torch.from_numpy(np.concatenate([sample.is_crowd for sample in samples])),
    )
    image_id = torch.tensor([sample.image_id for sample in samples])
    size_hw = torch.tensor([sample.image_hw or sample.image.shape[:2] for sample in samples]).view(-1, 2)
    return Batch(stack_images_chw([sample.image for sample in samples]), targets, image_id, size_hw)


def collate_images(samples: Sequence[ImageSample]) -> ImageBatch:
    """Stack classification samples of equal image size into a batch."""
    class_id = torch.zeros(len(samples), MAX_CLASSES_PER_IMAGE, dtype=torch.int64)
    label_weight = torch.zeros(len(samples), MAX_CLASSES_PER_IMAGE)
    for i, sample in enumerate(samples):
        class_id[i, : len(sample.class_id)] = torch.tensor(sample.class_id)
        label_weight[i, : len(sample.label_weight)] = torch.tensor(sample.label_weight)
    index = torch.tensor([sample.index for sample in samples])
    return ImageBatch(stack_images_chw([sample.image for sample in samples]), class_id, label_weight, index)


def stack_images_chw(arrays: Sequence[np.ndarray]) -> Tensor:
    """Stack images of equal size: B arrays (H, W, 3) uint8 -> (B, 3, H, W) uint8.

    In a loader process, the result is in shared memory, so the training process receives it without a copy.
    """
    height, width = arrays[0].shape[:2]
    images = torch.empty((len(arrays), 3, height, width), dtype=torch.uint8)
    if torch.utils.data.get_worker_info() is not None:
        images.share_memory_()
    for array, planes in zip(arrays, images.numpy(), strict=True):
        cv2.split(array, list(planes))
    return images
