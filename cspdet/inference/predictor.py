"""Predictors: they take images and return results, with boxes in image pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np
import torch

from cspdet.datasets.image_io import read_image
from cspdet.inference.engines.base import Engine
from cspdet.letterbox import Letterbox
from cspdet.models import Detector
from cspdet.models.config import PostprocessConfig
from cspdet.structures import Detections

ResultT = TypeVar("ResultT")

ImageInput = str | Path | np.ndarray  # a file, or (H, W, 3) uint8 RGB

MAX_BATCH_SIZE = 16  # images per forward pass; longer lists are split into batches of this size


class ImagePredictor(ABC, Generic[ResultT]):
    """Base class of the predictors: `predict` takes one image or a list of images.

    Attributes:
        name: Name of the model.
        class_names: Names of the classes, by class index.
        device: Device of the network.
    """

    def __init__(self, name: str, class_names: tuple[str, ...], device: torch.device):
        self.name, self.class_names, self.device = name, class_names, device

    @overload
    def predict(self, x: ImageInput) -> ResultT: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, x: Sequence[ImageInput]) -> list[ResultT]: ...

    def predict(self, x: ImageInput | Sequence[ImageInput]) -> ResultT | list[ResultT]:
        """Run the model on one image, or on each image in a list.

        Args:
            x: Path of an image file or an (H, W, 3) uint8 RGB array, or a list of them.

        Returns:
            One result, or a list with one result per image.

        Raises:
            ValueError: An array has another shape or type.
            DataError: A file is not a readable image.
        """
        return map_images(x, self._predict_batch)

    __call__ = predict

    @abstractmethod
    def _predict_batch(self, inputs: Sequence[ImageInput]) -> list[ResultT]:
        """Return one result per image, for at most MAX_BATCH_SIZE images."""


class Predictor(ImagePredictor[Detections]):
    """Predictor that detects objects in images of any size. Boxes are in image pixels, clipped to the image.

    Attributes:
        engine: The engine that runs the network.
        model: The torch module on `device`; for an exported file, the engine. It computes raw outputs from images (B,
            3, H, W) in [0, 1].
        category_ids: Category ids of the annotations, by class index.
        size_hw: Height and width of the network input in pixels.
        resize: How images are resized to the input: letterbox or stretch.
        postprocess: Thresholds and limits.
    """

    def __init__(self, engine: Engine, postprocess: PostprocessConfig, *, network: Detector | None = None):
        """Create a predictor from an engine.

        Args:
            engine: The engine of a detector.
            postprocess: Thresholds and limits.
            network: The network from which the engine was created; it is moved to the engine's device. None: an
                exported file.

        Raises:
            ConfigError: Box voting is requested for a file with built-in NMS.
        """
        super().__init__(engine.metadata.name, engine.metadata.class_names, engine.device)
        engine.check_voting(postprocess.vote_iou)
        self.engine = engine
        self.model: Detector | Engine = engine
        if network is not None:
            self.model = network.eval().to(engine.device).to(memory_format=torch.channels_last)
        self.category_ids: tuple[int, ...] = engine.metadata.category_ids
        self.size_hw: tuple[int, int] = engine.size_hw
        self.resize = engine.resize
        self.postprocess = postprocess

    @torch.inference_mode()
    def _predict_batch(self, inputs: Sequence[ImageInput]) -> list[Detections]:
        images = [load_image(item) for item in inputs]
        letterboxes = [Letterbox.fit(image.shape[:2], self.size_hw, self.resize) for image in images]
        padded = np.stack(
            [box.resize_and_pad(image, self.size_hw) for box, image in zip(letterboxes, images, strict=True)]
        )
        batch_detections = self.engine.detect(torch.from_numpy(padded).permute(0, 3, 1, 2), self.postprocess)
        return [
            detections.to_image(letterbox, image.shape[:2], clip_boxes=self.postprocess.clip_boxes)
            for detections, letterbox, image in zip(batch_detections, letterboxes, images, strict=True)
        ]


def map_images(
    x: ImageInput | Sequence[ImageInput], function: Callable[[Sequence[ImageInput]], list[ResultT]]
) -> ResultT | list[ResultT]:
    """Apply a function for batches to one image, or to a list of images in batches of at most MAX_BATCH_SIZE.

    Returns:
        One result, or a list with one result per image.
    """
    if isinstance(x, (str, Path, np.ndarray)):
        return function([x])[0]
    if not isinstance(x, Sequence):
        raise ValueError(f"expected a path, a (H, W, 3) uint8 RGB array, or a list of them; got {type(x).__name__}")
    results: list[ResultT] = []
    for first in range(0, len(x), MAX_BATCH_SIZE):
        results += function(x[first : first + MAX_BATCH_SIZE])
    return results


def load_image(image: ImageInput) -> np.ndarray:
    """Read an image file, or check the shape and type of an array; return (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The array has another shape or type.
        DataError: The file is not a readable image.
    """
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if not isinstance(image, np.ndarray):
        raise ValueError(f"expected a path or a (H, W, 3) uint8 RGB array; got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"expected a (H, W, 3) uint8 RGB array; got {image.shape} {image.dtype}")
    return image
