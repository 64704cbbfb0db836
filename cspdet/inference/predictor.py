"""One detector, ready to use: pictures in, detections in their own pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from pydantic import ValidationError

from cspdet.checkpoints.loading import load_model
from cspdet.datasets.image_io import read_image
from cspdet.device import select_device
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.exported import is_exported
from cspdet.inference.engines.factory import build_engine, load_engine
from cspdet.inference.engines.torch_engine import TorchEngine
from cspdet.inference.metadata import build_metadata
from cspdet.letterbox import Letterbox
from cspdet.models import Detector
from cspdet.models.bundle import ModelBundle
from cspdet.models.config import PostprocessConfig
from cspdet.structures import Detections

ImageInput = str | Path | np.ndarray  # a file, or (H, W, 3) uint8 RGB

MAX_BATCH_SIZE = 16  # pictures a forward pass; longer lists are worked off in pieces of this many


def load_detector(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    min_score: float = 0.25,
    nms_iou: float = 0.6,
    max_detections: int = 100,
    vote_iou: float | None = None,
) -> Predictor:
    """A detector from a checkpoint, a config (with `weights`, else with random values) or an exported file.

    backend    auto: the fastest installed engine that agrees with torch, which takes seconds to find out; or one of
               torch, torch-compile, onnxruntime, openvino, cuda-graph, tensorrt
    precision  fp32, bf16, fp16 (CUDA), int8 (files that were exported so)
    size       (height, width) of the input in place of the model's own
    threads    of the CPU; None: as many as torch has
    vote_iou   box voting: a box becomes the average of the candidates that overlap it by more than this; None: none

    Raises:
        UserError: no such model, a damaged file, no such device, backend or precision, or voting of a file with NMS.
        ValueError: thresholds outside [0, 1].
    """
    try:
        postprocess = PostprocessConfig(
            min_score=min_score, nms_iou=nms_iou, max_detections=max_detections, vote_iou=vote_iou
        )
    except ValidationError as error:
        problems = "; ".join(f"{e['loc'][0]}: {e['msg'].lower()}, got {e['input']!r}" for e in error.errors())
        raise ValueError(problems) from None
    chosen = select_device(device)
    network: Detector | None = None
    if is_exported(model):
        engine = load_engine(
            model, weights=weights, backend=backend, precision=precision, device=chosen, size=size, threads=threads
        )
    else:
        bundle = load_model(model, weights=weights, task="detection")
        network = bundle.detector
        engine = build_engine(bundle, chosen, backend=backend, precision=precision, size=size, threads=threads)
    return Predictor(engine, chosen, postprocess, network=network)


class Predictor:
    """What `load_detector` returns. Boxes come in pixels of the picture that was given, cut to it."""

    def __init__(
        self,
        model: ModelBundle | Engine,
        device: torch.device,
        postprocess: PostprocessConfig,
        *,
        network: Detector | None = None,
    ):
        """`network` is what the engine was made from, for `model`; where there is none, `model` is the engine."""
        if isinstance(model, ModelBundle):
            network = model.detector
            engine: Engine = TorchEngine(network, build_metadata(model), device)
        else:
            engine = model
        engine.check_voting(postprocess.vote_iou)
        self.engine = engine
        # (B, 3, H, W) in [0, 1] to raw scales
        self.model: Detector | Engine = (
            engine if network is None else network.eval().to(device).to(memory_format=torch.channels_last)
        )
        self.name = engine.metadata.name
        self.class_names: tuple[str, ...] = engine.metadata.class_names  # by class_id
        self.category_ids: tuple[int, ...] = engine.metadata.category_ids  # by class_id, as the annotations had them
        self.size_hw: tuple[int, int] = engine.size_hw
        self.resize = engine.resize
        self.device = device
        self.postprocess = postprocess

    @overload
    def predict(self, x: ImageInput) -> Detections: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, x: Sequence[ImageInput]) -> list[Detections]: ...

    def predict(self, x: ImageInput | Sequence[ImageInput]) -> Detections | list[Detections]:
        """What is on one picture, or on each of a list of pictures: a path, or (H, W, 3) uint8 RGB.

        Raises:
            ValueError: an array of another shape or type.
            DataError: a file that is not a readable picture.
        """
        if isinstance(x, (str, Path, np.ndarray)):
            return self._predict([x])[0]
        if not isinstance(x, Sequence):
            raise ValueError(f"expected a path, a (H, W, 3) uint8 RGB array, or a list of them; got {type(x).__name__}")
        found: list[Detections] = []
        for first in range(0, len(x), MAX_BATCH_SIZE):
            found += self._predict(x[first : first + MAX_BATCH_SIZE])
        return found

    @torch.inference_mode()
    def _predict(self, inputs: Sequence[ImageInput]) -> list[Detections]:
        images = [load_image(item) for item in inputs]
        letterboxes = [Letterbox.fit(image.shape[:2], self.size_hw, self.resize) for image in images]
        drawn = np.stack(
            [box.resize_and_pad(image, self.size_hw) for box, image in zip(letterboxes, images, strict=True)]
        )
        batch_detections = self.engine.detect(torch.from_numpy(drawn).permute(0, 3, 1, 2), self.postprocess)
        return [
            detections.to_image(letterbox, image.shape[:2], clip_boxes=self.postprocess.clip_boxes)
            for detections, letterbox, image in zip(batch_detections, letterboxes, images, strict=True)
        ]


def load_image(image: ImageInput) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a file read, or an array that was checked."""
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if not isinstance(image, np.ndarray):
        raise ValueError(f"expected a path or a (H, W, 3) uint8 RGB array; got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"expected a (H, W, 3) uint8 RGB array; got {image.shape} {image.dtype}")
    return image
