"""What an evaluation needs of a model: batches in, detections or class probabilities out.

Training, `cspdet eval` and inference engines share one evaluation loop. An engine (`cspdet.inference.engines`) has the
interface of `DetectionPredictor` itself; a torch network gets it from `NetworkDetector` or `NetworkClassifier`.
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
    """A detector with its post-processing, as the evaluation calls it."""

    @property
    def device(self) -> torch.device:
        """Where it computes; the data loader chooses its number of workers by it."""

    def detect(self, images: Tensor, postprocess: PostprocessConfig) -> list[Detections]:
        """Detect objects in a batch of images.

        Args:
            images: (B, 3, H, W) uint8 RGB of the input size.
            postprocess: Thresholds and limits.

        Returns:
            The detections of each image, best first, in input pixels.
        """


class ClassificationPredictor(Protocol):
    """A classifier, as the evaluation calls it."""

    @property
    def device(self) -> torch.device:
        """Where it computes; the data loader chooses its number of workers by it."""

    @property
    def num_classes(self) -> int:
        """The number C of its classes."""

    def probabilities(self, crops: Tensor) -> Tensor:
        """(B, V, 3, H, W) uint8 RGB, V crops per image, to (B, C) float32 class probabilities."""


class NetworkDetector:
    """A `Detector` on its device as a `DetectionPredictor`.

    Args:
        network: The network, on `device` and in the mode in which it is to be evaluated.
        device: Where the network is.
        precision: The number format of the forward pass.
    """

    def __init__(self, network: Detector, device: torch.device, precision: Precision = "fp32"):
        self.network, self.device, self.precision = network, device, precision

    def detect(self, images: Tensor, postprocess: PostprocessConfig) -> list[Detections]:
        """See `DetectionPredictor.detect`."""
        with autocast(self.device, self.precision):
            raw = self.network(to_float_tensor(images, self.device))
        return decode_and_nms(raw, self.network.anchors, postprocess)


class NetworkClassifier:
    """A `Classifier` on its device as a `ClassificationPredictor`; arguments as of `NetworkDetector`."""

    def __init__(self, network: Classifier, device: torch.device, precision: Precision = "fp32"):
        self.network, self.device, self.precision = network, device, precision

    @property
    def num_classes(self) -> int:
        """The number of classes of the network."""
        return self.network.num_classes

    def probabilities(self, crops: Tensor) -> Tensor:
        """See `ClassificationPredictor.probabilities`."""
        return predict_probabilities(self.network, crops, self.device, self.precision)


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode; after the block it is in its former mode again."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
