"""Evaluation of detectors, classifiers and COCO results files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from cspdet.checkpoints import loading
from cspdet.config.loader import parse_config
from cspdet.datasets.classification.crops import ImageCrop, build_image_crop
from cspdet.datasets.classification.image_folder import ImageFolderDataset, load_image_folder
from cspdet.datasets.config import Interpolation
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.device import select_device
from cspdet.errors import ConfigError, did_you_mean
from cspdet.evaluation.classification import ClassifierMetrics, evaluate_classifier, match_image_classes
from cspdet.evaluation.coco import Metrics, Result, evaluate_results
from cspdet.evaluation.coco_backends import select_backend
from cspdet.evaluation.detection import evaluate_detector, match_classes
from cspdet.evaluation.predictors import NetworkClassifier, NetworkDetector, evaluation_mode
from cspdet.evaluation.results import clip_results, filter_results, read_results
from cspdet.inference.classifier import override_eval_config
from cspdet.inference.config import EngineConfig
from cspdet.inference.engines.exported import is_exported
from cspdet.inference.engines.factory import build_engine
from cspdet.models.bundle import ModelBundle, TaskName
from cspdet.models.config import ClassifierEvalConfig, EvalConfig

log = logging.getLogger("cspdet")

Settings = Mapping[str, Any]  # values of the `eval` section


@dataclass(frozen=True)
class EvaluationOptions:
    """Arguments of `evaluate_model`.

    Attributes:
        model: A checkpoint, an exported file, or a config with `weights`.
        weights: Trained weights for a config.
        overrides: `key.path=value` for the config of the model.
        task: The expected task; None accepts both.
        data: Data descriptor for a detector, image folder for a classifier; None: `data` of the model's config.
        split: train, val or test.
        device: auto, cpu, cuda or cuda:N.
        backend: Engine for a detector; None: the PyTorch network, or the fastest engine for an exported file.
        precision: Precision of the engine.
        settings: Replacements of values of the model's `eval` section, such as `min_score`, `nms_iou` or `crop`.
        interpolation: Interpolation method for resizing the images of a classifier.
    """

    model: str | Path
    weights: str | Path | None = None
    overrides: Sequence[str] = ()
    task: TaskName | None = None
    data: Path | None = None
    split: str = "val"
    device: str = "auto"
    backend: str | None = None
    precision: str = "fp32"
    settings: Settings = field(default_factory=dict)
    interpolation: Interpolation = "bilinear"


@dataclass(frozen=True)
class DetectionEvaluation:
    """Metrics and detections of a detector on one split.

    Attributes:
        dataset: The evaluated split.
        metrics: COCO metrics.
        results: Detections in the COCO results format.
        model_info: Name, input size and engine of the model, for metrics.json.
    """

    task: ClassVar[Literal["detection"]] = "detection"
    dataset: CocoDataset
    metrics: Metrics
    results: list[Result]
    model_info: dict[str, Any]


@dataclass(frozen=True)
class ClassificationEvaluation:
    """Metrics and predicted classes of a classifier on one split.

    Attributes:
        images: The evaluated images.
        metrics: Accuracies, confusion matrix, and the predicted classes of each image.
        crop: Resizing and cropping of the images.
        model: Name of the model.
    """

    task: ClassVar[Literal["classification"]] = "classification"
    images: ImageFolderDataset
    metrics: ClassifierMetrics
    crop: ImageCrop
    model: str


Evaluation = DetectionEvaluation | ClassificationEvaluation


def evaluate_model(options: EvaluationOptions) -> Evaluation:
    """Evaluate a detector or a classifier.

    Raises:
        UserError: The model, data or settings cannot be used.
    """
    exported = is_exported(options.model, options.backend or "auto")
    if exported and options.data is None:
        raise ConfigError(f"{options.model}: an exported file does not name any data; expected --data DESCRIPTOR")
    backend = options.backend or ("auto" if exported else "torch")
    engine_config = EngineConfig(backend, options.precision, options.device)
    engine_config.check()
    select_device(options.device)
    bundle = loading.load_model(
        options.model, weights=options.weights, overrides=options.overrides, task=options.task, backend=backend
    )  # fmt: skip
    if bundle.task == "classification":
        return _evaluate_classifier(bundle, options)
    _reject_settings(bundle, options.settings, EvalConfig)
    if exported or options.backend is not None or options.precision != "fp32":
        return _evaluate_engine(bundle, engine_config, options)
    return _evaluate_network(bundle, options)


def evaluate_results_file(
    path: Path, data: Path, split: str = "val", settings: Settings | None = None
) -> DetectionEvaluation:
    """Evaluate a COCO results file; the image files are not needed.

    Args:
        path: The results file.
        data: Data descriptor of the ground truth.
        split: train, val or test.
        settings: `min_score`, `max_detections`, `clip_boxes` and `evaluator`; None: evaluate the file unchanged.

    Raises:
        UserError: A file is missing or corrupt, or the settings are invalid.
    """
    values = dict(settings or {})
    config = parse_config(values, EvalConfig, "command line")
    select_backend(config.evaluator)
    descriptor = load_dataset_config(data)
    files = getattr(descriptor, split)
    if files is None or not files.annotations.is_file():
        files = descriptor.split(split)  # raises an error with hints
    dataset = load_coco(files, split, allow_empty=True)
    results = filter_results(read_results(path, dataset), values.get("min_score"), values.get("max_detections"))
    if values.get("clip_boxes"):
        results = clip_results(results, dataset)
    metrics = evaluate_results(dataset, results, evaluator=config.evaluator)
    return DetectionEvaluation(dataset, metrics, results, {"model": None, "size": None})


def _evaluate_network(bundle: ModelBundle, options: EvaluationOptions) -> DetectionEvaluation:
    device = select_device(options.device)
    eval_ = _eval_config(bundle.config.eval, options)
    dataset, class_mapping = _load_split(bundle, options)
    input_ = bundle.config.input
    network = bundle.detector.to(device)
    with evaluation_mode(network):
        metrics, results = evaluate_detector(NetworkDetector(network, device), dataset, input_, eval_, class_mapping)
    return DetectionEvaluation(dataset, metrics, results, {"model": bundle.name, "size": list(input_.size)})


def _evaluate_engine(
    bundle: ModelBundle, engine_config: EngineConfig, options: EvaluationOptions
) -> DetectionEvaluation:
    engine = build_engine(bundle, engine_config)
    engine.check_voting(options.settings.get("vote_iou"))
    eval_ = _eval_config(engine.metadata.eval, options)
    dataset, class_mapping = _load_split(bundle, options)
    metrics, results = evaluate_detector(engine, dataset, engine.metadata.input, eval_, class_mapping)
    model_info = {"model": engine.metadata.name, "size": list(engine.size_hw), "backend": engine.name}
    return DetectionEvaluation(dataset, metrics, results, {**model_info, "precision": engine.precision})


def _eval_config(base: EvalConfig, options: EvaluationOptions) -> EvalConfig:
    return parse_config({**base.model_dump(mode="json"), **options.settings}, EvalConfig, "command line")


def _load_split(bundle: ModelBundle, options: EvaluationOptions) -> tuple[CocoDataset, tuple[int, ...] | None]:
    """Load the split of `options`, and match the classes of the model to the classes of the dataset.

    Returns:
        The split; and the dataset class index of each model class, None if both have the same classes.
    """
    data = options.data or bundle.config.data
    assert data is not None  # `data` is required in a detector config
    model = Path(options.model)
    named_by_checkpoint = options.data is None and model.is_file() and model.suffix not in (".yaml", ".yml", ".cfg")
    files = load_dataset_config(data, named_by_user=not named_by_checkpoint).split(options.split)
    dataset = load_coco(files, options.split, allow_empty=options.split == "test")
    return dataset, match_classes(bundle.categories, dataset.classes, str(dataset.files.annotations))


def _evaluate_classifier(bundle: ModelBundle, options: EvaluationOptions) -> ClassificationEvaluation:
    if options.backend is not None or options.precision != "fp32":
        flag = "--precision" if options.backend is None else "--backend"
        raise ConfigError(f"{flag}: is for detectors; {bundle.name} is a classifier")
    _reject_settings(bundle, options.settings, ClassifierEvalConfig)
    device = select_device(options.device)
    eval_ = override_eval_config(bundle.config.eval, options.settings)
    crop = build_image_crop(bundle.config.input, eval_, options.interpolation)
    data = options.data or bundle.config.data
    if data is None:
        raise ConfigError("eval-classifier: --data DIR is missing, the folder with val/CLASS/*")
    if options.split not in ("train", "val"):
        raise ConfigError(f"--split: expected train or val for a classifier, found {options.split!r}")
    images = load_image_folder(data, "train" if options.split == "train" else "val")
    for warning in images.warnings:
        log.info("%s", warning)
    images = match_image_classes(images, bundle.categories.names, f"{data} ({options.split})")
    network = bundle.classifier.to(device)
    with evaluation_mode(network):
        metrics = evaluate_classifier(NetworkClassifier(network, device), images, crop, eval_)
    return ClassificationEvaluation(images, metrics, crop, bundle.name)


def _reject_settings(bundle: ModelBundle, values: Settings, config: type[EvalConfig | ClassifierEvalConfig]) -> None:
    """Raise ConfigError if a setting is unknown, or exists only for the other task (detection or classification)."""
    known = [*EvalConfig.model_fields, *ClassifierEvalConfig.model_fields]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ConfigError(*(f"unknown setting {name!r}{did_you_mean(name, known)}" for name in unknown))
    other, found = ("classifiers", "a detector") if bundle.task == "detection" else ("detectors", "a classifier")
    problems = [
        f"--{name.replace('_', '-')}: is for {other}; {bundle.name} is {found}"
        for name in values
        if name not in config.model_fields
    ]
    if problems:
        raise ConfigError(*problems)
