"""Interfaces of the models that are evaluated: a batch of images in, detections or class probabilities out.

Training, `cspdet eval` and inference engines share one evaluation loop. An engine (`cspdet.inference.engines`)
implements `DetectionPredictor`. `NetworkDetector` and `NetworkClassifier` implement the interfaces for a torch network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from cspdet.device import Precision, autocast, to_float_tensor
from cspdet.models import Classifier, Detector
from cspdet.models.classifier import predict_probabilities
from cspdet.models.config import PostprocessConfig
from cspdet.models.postprocess import decode_and_nms
from cspdet.structures import Detections


class DetectionPredictor(Protocol):
    """Interface of a detector that includes post-processing."""

    @property
    def device(self) -> torch.device:
        """Device of the model; the number of data loader workers depends on it."""

    def detect(self, images: Tensor, postprocess: PostprocessConfig) -> list[Detections]:
        """Detect objects in a batch of images.

        Args:
            images: (B, 3, H, W) uint8 RGB of the input size.
            postprocess: Thresholds and limits.

        Returns:
            The detections of each image, sorted by descending score, in input pixels.
        """


class ClassificationPredictor(Protocol):
    """Interface of a classifier."""

    @property
    def device(self) -> torch.device:
        """Device of the model; the number of data loader workers depends on it."""

    @property
    def num_classes(self) -> int:
        """Number of classes C."""

    def probabilities(self, crops: Tensor) -> Tensor:
        """Return (B, C) float32 class probabilities.

        Args:
            crops: (B, V, 3, H, W) uint8 RGB, V crops per image.
        """


class NetworkDetector:
    """Implementation of `DetectionPredictor` for a network.

    Args:
        network: The network, already on `device` and in evaluation mode.
        device: Device of the network.
        precision: Precision of the forward pass.
    """

    def __init__(self, network: Detector, device: torch.device, precision: Precision = "fp32"):
        self.network, self.device, self.precision = network, device, precision

    def detect(self, images: Tensor, postprocess: PostprocessConfig) -> list[Detections]:
        """Detect objects in a batch of images; see `DetectionPredictor.detect`."""
        with autocast(self.device, self.precision):
            raw = self.network(to_float_tensor(images, self.device))
        return decode_and_nms(raw, self.network.anchors, postprocess)


class NetworkClassifier:
    """Implementation of `ClassificationPredictor` for a network; for the arguments, see `NetworkDetector`."""

    def __init__(self, network: Classifier, device: torch.device, precision: Precision = "fp32"):
        self.network, self.device, self.precision = network, device, precision

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.network.num_classes

    def probabilities(self, crops: Tensor) -> Tensor:
        """Compute class probabilities; see `ClassificationPredictor.probabilities`."""
        return predict_probabilities(self.network, crops, self.device, self.precision)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode inside the `with` block, and restore its previous mode at the end."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
