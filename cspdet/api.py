"""The functions of cspdet for use from Python."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from cspdet.checkpoints.loading import load_model
from cspdet.datasets.classification.crops import Interpolation, build_image_crop
from cspdet.device import select_device
from cspdet.inference.classifier import ClassifierPredictor, override_eval_config
from cspdet.inference.config import EngineConfig
from cspdet.inference.engines.factory import build_engine
from cspdet.inference.predictor import Predictor
from cspdet.models.config import PostprocessConfig


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
    max_iou: float | None = None,
) -> Predictor:
    """Load a detector from a checkpoint, a config or an exported file.

    Args:
        model: A checkpoint (`.pt`), an exported file, or a config (`.yaml`), with random values unless `weights` is
            given.
        weights: Trained values for a config.
        device: auto, cpu, cuda or cuda:N.
        backend: torch, torch-compile, cuda-graph, onnxruntime, openvino, tensorrt, or `module:Class` of your own; auto:
            the fastest installed engine that agrees with torch, which takes some seconds to find.
        precision: fp32, bf16, fp16 (CUDA), or int8 (files that were exported so).
        size: Height and width of the input; None: the model's own.
        threads: Number of CPU threads; None: as many as torch uses.
        min_score: Score threshold.
        nms_iou: NMS IoU threshold.
        max_detections: Maximum number of detections per image.
        vote_iou: Box voting: each box becomes the average of the candidates that overlap it by more; None: no voting.
        max_iou: The name of `nms_iou` in cspdet 1.

    Returns:
        A predictor; `predictor.predict(image)` gives `Detections` in pixels of the image.

    Raises:
        UserError: A missing or damaged model, a device, engine or precision that is not there, or voting of a file with
            built-in NMS.
        ValueError: Thresholds outside [0, 1], or a limit below 1.
    """
    postprocess = _postprocess_config(
        min_score=min_score,
        nms_iou=nms_iou if max_iou is None else max_iou,
        max_detections=max_detections,
        vote_iou=vote_iou,
    )
    config = EngineConfig(backend, precision, device, size, threads)
    config.check()
    bundle = load_model(model, weights=weights, task="detection")
    network = None if bundle.network is None else bundle.detector
    return Predictor(build_engine(bundle, config), postprocess, network=network)


def _postprocess_config(**values: object) -> PostprocessConfig:
    try:
        return PostprocessConfig.model_validate(values)
    except ValidationError as error:
        problems = [f"{e['loc'][0]}: {e['msg'].lower()}, got {e['input']!r}" for e in error.errors()]
        raise ValueError("; ".join(problems)) from None


def load_classifier(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    resize: int | None = None,
    crop: float | None = None,
    ten_crop: bool | None = None,
    interpolation: Interpolation = "bilinear",
) -> ClassifierPredictor:
    """Load a classifier from a checkpoint or a config.

    `resize`, `crop` and `ten_crop` replace those of the model's own `eval` section.

    Args:
        model: A checkpoint (`.pt`), or a config (`.yaml`), with random values unless `weights` is given.
        weights: Trained values for a config.
        device: auto, cpu, cuda or cuda:N.
        resize: The short side of the resized image, in pixels.
        crop: Fraction of the short side that the input covers, in place of `resize`.
        ten_crop: Average over ten crops: the corners and the center, each also mirrored.
        interpolation: How images are resized.

    Returns:
        A predictor; `predictor.predict(image)` gives a `Prediction`.

    Raises:
        UserError: A missing or damaged model, no such device, or a `resize` below the input's size.
    """
    selected = select_device(device)
    bundle = load_model(model, weights=weights, task="classification")
    overrides = {"resize": resize, "crop": crop, "ten_crop": ten_crop}
    eval_ = override_eval_config(
        bundle.config.eval, {name: value for name, value in overrides.items() if value is not None}
    )
    return ClassifierPredictor(bundle, selected, build_image_crop(bundle.config.input, eval_, interpolation))
