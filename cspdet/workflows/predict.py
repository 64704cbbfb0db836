"""Loading of predictors, and prediction on images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cspdet.checkpoints import loading
from cspdet.datasets.classification.crops import build_image_crop
from cspdet.datasets.config import Interpolation
from cspdet.device import select_device
from cspdet.errors import ConfigError, SourceError
from cspdet.inference.classifier import ClassifierPredictor, override_eval_config
from cspdet.inference.config import EngineConfig
from cspdet.inference.engines.factory import build_engine
from cspdet.inference.image_input import ImageInput
from cspdet.inference.prediction import Prediction
from cspdet.inference.predictor import Predictor
from cspdet.inference.results import DetectionResult
from cspdet.inference.sources import ImageFile, find_sources
from cspdet.models.bundle import ModelBundle, TaskName, check_task
from cspdet.models.config import PostprocessConfig, replace_thresholds


def load_detector(
    model: str | Path | ModelBundle,
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
    max_iou: float | None = None,
) -> Predictor:
    """Load a detector from a checkpoint, a config or an exported file.

    Args:
        model: A checkpoint (`.pt`), an exported file, a config (`.yaml`; if `weights` is None, the network has random
            weights), or a loaded model.
        weights: Trained weights for a config.
        device: auto, cpu, cuda or cuda:N.
        backend: torch, torch-compile, cuda-graph, onnxruntime, openvino, tensorrt, or a user-defined `module:Class`;
            auto: the fastest installed engine whose outputs agree with torch, selected by a benchmark of a few seconds.
        precision: fp32, bf16, fp16 (CUDA), or int8 (files exported with int8).
        size: Height and width of the input; None: the input size of the model.
        threads: Number of CPU threads; None: the number that torch uses.
        min_score: Score threshold.
        nms_iou: NMS IoU threshold.
        max_detections: Maximum number of detections per image.
        vote_iou: IoU threshold of box voting, which replaces each box by the weighted average of all candidates whose
            IoU with this box is above the threshold; None: no voting.
        max_iou: Old name of `nms_iou` (cspdet 1).

    Returns:
        A predictor; `predictor.predict(image)` returns a `DetectionResult` in image pixels.

    Raises:
        UserError: The model is missing or corrupt, the device, engine or precision is not available, or box voting is
            requested for an exported file with built-in NMS.
        ValueError: A threshold is outside [0, 1], or `max_detections` is below 1.
    """
    postprocess = replace_thresholds(
        PostprocessConfig(),
        {
            "min_score": min_score, "nms_iou": nms_iou if max_iou is None else max_iou,
            "max_detections": max_detections, "vote_iou": vote_iou,
        },
    )  # fmt: skip
    config = EngineConfig(backend, precision, device, size, threads)
    config.check()
    bundle = _load_bundle(model, weights, "detection", backend)
    network = None if bundle.network is None else bundle.detector
    return Predictor(build_engine(bundle, config), postprocess, network=network)


def load_classifier(
    model: str | Path | ModelBundle,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    resize: int | None = None,
    crop: float | None = None,
    ten_crop: bool | None = None,
    interpolation: Interpolation = "bilinear",
) -> ClassifierPredictor:
    """Load a classifier from a checkpoint or a config.

    `resize`, `crop` and `ten_crop` replace the values of the model's `eval` section.

    Args:
        model: A checkpoint (`.pt`), a config (`.yaml`; if `weights` is None, the network has random weights), or a
            loaded model.
        weights: Trained weights for a config.
        device: auto, cpu, cuda or cuda:N.
        resize: Short side of the resized image in pixels, before the crop.
        crop: Ratio of crop size to resized short side, an alternative to `resize`.
        ten_crop: Average the probabilities over ten crops: the four corners and the center, and the five crops flipped
            horizontally.
        interpolation: Interpolation method for resizing.

    Returns:
        A predictor; `predictor.predict(image)` returns a `Prediction`.

    Raises:
        UserError: The model is missing or corrupt, the device does not exist, or `resize` is smaller than the input
            size.
    """
    selected = select_device(device)
    bundle = _load_bundle(model, weights, "classification")
    overrides = {"resize": resize, "crop": crop, "ten_crop": ten_crop}
    eval_ = override_eval_config(
        bundle.config.eval, {name: value for name, value in overrides.items() if value is not None}
    )
    return ClassifierPredictor(bundle, selected, build_image_crop(bundle.config.input, eval_, interpolation))


def predict_images(
    model: str | Path | ModelBundle | Predictor | ClassifierPredictor,
    source: ImageInput | Iterable[ImageInput],
    *,
    bgr: bool = False,
    **options: Any,
) -> DetectionResult | Prediction | list[DetectionResult] | list[Prediction]:
    """Detect objects in images, or classify images. The arguments are those of `cspdet.predict`."""
    predictor, thresholds = model, {} if isinstance(model, (str, Path, ModelBundle)) else options
    if isinstance(predictor, (str, Path)):
        predictor = loading.load_model(
            predictor, weights=options.pop("weights", None), backend=options.get("backend", "auto")
        )
    if isinstance(predictor, ModelBundle):
        predictor = _build_predictor(predictor, options)
    if not isinstance(predictor, (Predictor, ClassifierPredictor)):
        raise ValueError(f"model: expected a path, a loaded model or a predictor, found {type(model).__name__}")
    if not isinstance(source, (str, os.PathLike)) or Path(source).is_file():
        return predictor.predict(source, bgr=bgr, **thresholds)
    images = [item.path for item in find_sources(str(source)) if isinstance(item, ImageFile)]
    if not images:
        raise SourceError(f"{source}: expected an image, or a folder or glob of images; `cspdet detect` reads videos")
    return predictor.predict(images, **thresholds)


def _build_predictor(bundle: ModelBundle, options: dict[str, Any]) -> Predictor | ClassifierPredictor:
    if bundle.task == "classification":
        return load_classifier(bundle, **options)
    # The benchmark for the fastest engine takes longer than the prediction of a few images.
    backend = "auto" if bundle.network is None else "torch"
    return load_detector(bundle, **{"backend": backend, **options})


def _load_bundle(
    model: str | Path | ModelBundle, weights: str | Path | None, task: TaskName, backend: str = "auto"
) -> ModelBundle:  # fmt: skip
    if isinstance(model, (str, Path)):
        return loading.load_model(model, weights=weights, task=task, backend=backend)
    if weights is not None:
        raise ConfigError(f"weights {weights}: expected with a config, not with a loaded model")
    check_task(task, model.task, model.name)
    return model
