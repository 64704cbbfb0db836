"""Predictors: they take images and return results, with boxes in image pixels."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np
import torch

from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.batching import nms_limits
from cspdet.inference.image_input import ImageInput, LoadedImage, is_single_image, load_image, load_images
from cspdet.inference.results import DetectionResult
from cspdet.letterbox import Letterbox
from cspdet.models import Detector
from cspdet.models.config import THRESHOLD_ALIASES, PostprocessConfig, replace_thresholds
from cspdet.structures import Categories

log = logging.getLogger("cspdet")

ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")

MAX_BATCH_SIZE = 16  # images per forward pass; longer lists are split into batches of this size
MAX_LISTED_CLASSES = 8  # in `repr`


class ImagePredictor(ABC, Generic[ResultT]):
    """Base class of the predictors: `predict` takes one image or a list of images.

    Calling a predictor runs `predict`; several threads may call it at once.

    Attributes:
        name: Name of the model.
        class_names: Names of the classes, by class index.
        device: Device of the network.
    """

    def __init__(self, name: str, class_names: tuple[str, ...], device: torch.device):
        self.name, self.class_names, self.device = name, class_names, device

    @overload
    def predict(self, x: ImageInput, *, bgr: bool = False) -> ResultT: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, x: Iterable[ImageInput], *, bgr: bool = False) -> list[ResultT]: ...

    def predict(self, x: ImageInput | Iterable[ImageInput], *, bgr: bool = False) -> ResultT | list[ResultT]:
        """Run the model on one image, or on each of a list of images.

        Args:
            x: One image: a path, bytes, an array, a tensor or a PIL image; `load_image` lists the shapes and types. Or
                several images: a list or an iterator, an array (B, H, W, 3), or a tensor (B, 3, H, W).
            bgr: Whether the channels of arrays and tensors are BGR, as `cv2.imread` returns them, instead of RGB.

        Returns:
            One result, or a list with one result per image.

        Raises:
            ValueError: An image has another type, shape or value range.
            DataError: A file is not a readable image.
        """
        return map_images(x, self._predict_batch, bgr=bgr)

    def __call__(self, x: Any, **options: Any) -> Any:
        """Run `predict`."""
        return self.predict(x, **options)

    def _describe_classes(self) -> str:
        """Return the number of classes and the first names, for `repr`."""
        names = self.class_names
        more = ", ..." if len(names) > MAX_LISTED_CLASSES else ""
        return f"{len(names)} classes ({', '.join(names[:MAX_LISTED_CLASSES])}{more})"

    @abstractmethod
    def _predict_batch(self, images: Sequence[LoadedImage]) -> list[ResultT]:
        """Return one result per image, for at most MAX_BATCH_SIZE images."""


class _Threshold(Generic[ValueT]):
    """An attribute of a predictor that reads and replaces a value of its `postprocess`."""

    def __set_name__(self, owner: type[Predictor], name: str) -> None:
        self.name = name

    def __get__(self, predictor: Predictor | None, owner: type[Predictor]) -> ValueT:
        if predictor is None:
            raise AttributeError(f"{self.name} is an attribute of predictors, not of their class")
        value: ValueT = getattr(predictor.postprocess, self.name)
        return value

    def __set__(self, predictor: Predictor, value: ValueT) -> None:
        predictor.postprocess = replace_thresholds(predictor.postprocess, {self.name: value})


class Predictor(ImagePredictor[DetectionResult]):
    """Predictor that detects objects in images of any size. Boxes are in image pixels, clipped to the image.

    Attributes:
        engine: The engine that runs the network.
        model: The torch module on `device`, which computes raw outputs from images (B, 3, H, W) in [0, 1]; for an
            exported file, the engine.
        category_ids: Category ids of the annotations, by class index.
        size_hw: Height and width of the network input in pixels.
        resize: How images are resized to the input: letterbox or stretch.
        postprocess: Thresholds and limits.
        min_score: Score threshold. This and the following attributes read and set the values of `postprocess`.
        nms_iou: NMS IoU threshold.
        max_detections: Maximum number of detections per image.
        vote_iou: IoU threshold of box voting; None: no voting.
    """

    min_score = _Threshold[float]()
    nms_iou = _Threshold[float]()
    max_detections = _Threshold[int]()
    vote_iou = _Threshold["float | None"]()

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
        self.engine = engine
        self._logged_limits: set[str] = set()
        self.model: Detector | Engine = engine
        if network is not None:
            self.model = network.eval().to(engine.device).to(memory_format=torch.channels_last)
        self.category_ids: tuple[int, ...] = engine.metadata.category_ids
        self._categories = Categories(self.class_names, self.category_ids)
        self.size_hw: tuple[int, int] = engine.size_hw
        self.resize = engine.resize
        self.postprocess = postprocess

    @property
    def postprocess(self) -> PostprocessConfig:
        """Thresholds and limits.

        Raises:
            ConfigError: Box voting is set for a file with built-in NMS.
        """
        return self._postprocess

    @postprocess.setter
    def postprocess(self, config: PostprocessConfig) -> None:
        self._check(config)
        self._postprocess = config

    def _check(self, config: PostprocessConfig) -> None:
        """Raise ConfigError for box voting after built-in NMS; log thresholds that have no effect."""
        self.engine.check_voting(config.vote_iou)
        nms = self.engine.metadata.nms
        for limit in [] if nms is None else nms_limits(nms, config):
            if limit not in self._logged_limits:
                self._logged_limits.add(limit)
                log.warning("%s: %s", self.name, limit)

    def __setattr__(self, name: str, value: object) -> None:
        if name in THRESHOLD_ALIASES:
            raise AttributeError(f"Predictor has no attribute {name!r}; set {THRESHOLD_ALIASES[name]}")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        height, width = self.size_hw
        return (
            f"Predictor({self.name}: {self._describe_classes()}, {height}x{width} {self.resize}, {self.engine}, "
            f"min_score={self.min_score:g}, nms_iou={self.nms_iou:g}, max_detections={self.max_detections})"
        )

    @overload
    def predict(self, x: ImageInput, *, bgr: bool = False, **thresholds: float | None) -> DetectionResult: ...  # type: ignore[overload-overlap]
    @overload
    def predict(
        self, x: Iterable[ImageInput], *, bgr: bool = False, **thresholds: float | None
    ) -> list[DetectionResult]: ...

    def predict(
        self, x: ImageInput | Iterable[ImageInput], *, bgr: bool = False, **thresholds: float | None
    ) -> DetectionResult | list[DetectionResult]:
        """Detect objects in one image, or in each of a list of images.

        Args:
            x: One image, or several, of the types that `load_image` accepts.
            bgr: Whether the channels of arrays and tensors are BGR instead of RGB.
            thresholds: Replacements for values of `postprocess` in this call: `min_score`, `nms_iou`,
                `max_detections`, `vote_iou`, `clip_boxes`.

        Raises:
            ValueError: An image has another type, shape or value range, or a threshold is unknown or out of range.
            DataError: A file is not a readable image.
            ConfigError: Box voting is requested for a file with built-in NMS.
        """
        config = self._postprocess
        if thresholds:
            config = replace_thresholds(config, thresholds)
            self._check(config)
        return map_images(x, partial(self._detect, config=config), bgr=bgr)

    def _predict_batch(self, images: Sequence[LoadedImage]) -> list[DetectionResult]:
        return self._detect(images, self._postprocess)

    @torch.inference_mode()
    def _detect(self, images: Sequence[LoadedImage], config: PostprocessConfig) -> list[DetectionResult]:
        letterboxes = [Letterbox.fit(image.size_hw, self.size_hw, self.resize) for image in images]
        padded = np.stack(
            [box.resize_and_pad(image.pixels, self.size_hw) for box, image in zip(letterboxes, images, strict=True)]
        )
        batch_detections = self.engine.detect(torch.from_numpy(padded).permute(0, 3, 1, 2), config)
        results = []
        for detections, letterbox, image in zip(batch_detections, letterboxes, images, strict=True):
            in_image = detections.to_image(letterbox, image.size_hw, clip_boxes=config.clip_boxes)
            results.append(DetectionResult.from_detections(in_image, self._categories, image))
        return results


def map_images(
    x: ImageInput | Iterable[ImageInput], function: Callable[[Sequence[LoadedImage]], list[ResultT]], *, bgr: bool
) -> ResultT | list[ResultT]:
    """Apply a function for batches to one image, or to several images in batches of at most MAX_BATCH_SIZE.

    Returns:
        One result, or a list with one result per image.
    """
    if is_single_image(x):
        return function([load_image(cast(ImageInput, x), bgr=bgr)])[0]
    images = load_images(cast("Iterable[ImageInput]", x), bgr=bgr)
    results: list[ResultT] = []
    while batch := list(islice(images, MAX_BATCH_SIZE)):
        results += function(batch)
    return results
