"""The Python API. Each command of `cspdet` calls one of these functions.

Example:
    >>> import cspdet
    >>> run = cspdet.train("csppelee_efm_sam", overrides=["data=data/shapes/shapes.yaml", "train.epochs=10"])
    >>> ap50 = cspdet.evaluate(run.run_dir / "best.pt").metrics["AP50"]
    >>> result = cspdet.predict(run.run_dir / "best.pt", "street.jpg")
    >>> for detection in result:
    ...     print(detection.class_name, detection.score, detection.box_xyxy)
    >>> cspdet.export(run.run_dir / "best.pt", "onnx")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cspdet.analysis.config import AnalysisConfig
from cspdet.checkpoints.fetching import fetch_model as fetch
from cspdet.checkpoints.loading import load_model
from cspdet.device import select_device
from cspdet.exporters.base import ExportConfig, ExportResult
from cspdet.inference.classifier import ClassifierPredictor
from cspdet.inference.image_input import ImageInput
from cspdet.inference.prediction import Prediction
from cspdet.inference.predictor import Predictor
from cspdet.inference.results import DetectionResult
from cspdet.models.bundle import ModelBundle, TaskName
from cspdet.training.distributed.context import local_device
from cspdet.training.run.options import TrainOptions
from cspdet.workflows.analyze import AnalysisReport, analyze_results_files
from cspdet.workflows.evaluate import Evaluation, EvaluationOptions, evaluate_model
from cspdet.workflows.export import export_model
from cspdet.workflows.predict import load_classifier, load_detector, predict_images
from cspdet.workflows.push import push_to_hub
from cspdet.workflows.train import TrainingRun, run_training

__all__ = [
    "AnalysisConfig", "AnalysisReport", "Evaluation", "ExportConfig", "ExportResult", "ModelBundle", "TrainingRun",
    "analyze", "evaluate", "export", "fetch", "load", "load_classifier", "load_detector", "predict",
    "push_to_hub", "train",
]  # fmt: skip


def load(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    task: TaskName | None = None,
) -> ModelBundle:
    """Load a model of either task.

    Example:
        >>> bundle = cspdet.load("runs/csppelee_efm_sam/best.pt")
        >>> bundle.task, bundle.categories.names
        ('detection', ('disc', 'bar', 'cross'))

    Args:
        model: A checkpoint, a config (file or name), a `.cfg`, an exported file, `hf:user/name`, or a name in `zoo`.
        weights: Trained weights for a config or cfg; None: random initialization.
        overrides: `key.path=value` for the config.
        task: The expected task; None accepts both.

    Returns:
        The network (in evaluation mode on the CPU; None for an exported file), the config and the categories.

    Raises:
        UserError: The model is missing or damaged, the weights do not fit it, or it is a model for another task.
    """
    return load_model(model, weights=weights, overrides=overrides, task=task)


def train(
    config: str | Path | None = None,
    *,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    overrides: Sequence[str] = (),
    weights: str | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    stop_after: int | None = None,
    task: TaskName | None = None,
) -> TrainingRun:
    """Train a detector or a classifier, or resume a run.

    Example:
        >>> cspdet.train("csppelee_efm", overrides=["data=data/shapes/shapes.yaml", "train.epochs=3"]).run_dir
        PosixPath('runs/csppelee_efm')

    Args:
        config: A config file, or the name of a released config.
        output: The run folder; None: `runs/<config name>`, or `runs/<config name>-2` ... if it exists.
        resume: Folder of the run to resume, instead of `config`.
        overrides: `key.path=value` for the config; on resume, only keys that do not affect completed steps.
        weights: Initial weights: a checkpoint, a Darknet file, timm:NAME, or the name of a downloaded model.
        data: Data descriptor (YAML) or, for a classifier, image folder; None: `data` of the config.
        device: auto, cpu, cuda or cuda:N.
        stop_after: Stop after this epoch; the run can be resumed.
        task: The expected task; None accepts both.

    Returns:
        The run folder and the exit code. The folder contains best.pt, last.pt, metrics.jsonl and report.html. The exit
        code is 0, or 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP) for a stopped run, which can be resumed.

    Raises:
        UserError: The config, data, weights or folder cannot be used.
    """
    options = TrainOptions(
        None if config is None else Path(config), None if output is None else Path(output),
        None if resume is None else Path(resume), weights, local_device(select_device(device)), stop_after,
        tuple(overrides), task, None if data is None else Path(data),
    )  # fmt: skip
    return run_training(options)


def evaluate(
    model: str | Path,
    data: str | Path | None = None,
    *,
    split: str = "val",
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    backend: str | None = None,
    precision: str = "fp32",
    **settings: Any,
) -> Evaluation:
    """Evaluate a detector (COCO metrics) or a classifier (top-1 and top-5 accuracy).

    Example:
        >>> evaluation = cspdet.evaluate("runs/csppelee_efm_sam/best.pt", min_score=0.01)
        >>> evaluation.metrics["AP50"]

    Args:
        model: A checkpoint, an exported file, or a config with `weights`.
        data: Data descriptor for a detector, image folder for a classifier; None: `data` of the model's config.
        split: train, val or test.
        weights: Trained weights for a config.
        overrides: `key.path=value` for the config of the model.
        device: auto, cpu, cuda or cuda:N.
        backend: Inference engine of a detector. None: PyTorch; for an exported file, the fastest engine.
        precision: Precision of the engine: fp32, bf16, fp16 or int8.
        settings: Values that replace those in `eval` of the model's config, such as `min_score` or `nms_iou`.

    Returns:
        A `DetectionEvaluation` with metrics and detections, or a `ClassificationEvaluation` with metrics and classes.

    Raises:
        UserError: The model, data or settings cannot be used.
    """
    return evaluate_model(
        EvaluationOptions(
            model, weights, overrides, None, None if data is None else Path(data), split, device, backend, precision,
            settings,
        )
    )  # fmt: skip


def predict(
    model: str | Path | ModelBundle | Predictor | ClassifierPredictor,
    source: ImageInput | Iterable[ImageInput],
    *,
    bgr: bool = False,
    **options: Any,
) -> DetectionResult | Prediction | list[DetectionResult] | list[Prediction]:
    """Detect objects in images, or classify them.

    For repeated calls, load the model once with `load_detector` or `load_classifier`.

    Example:
        >>> cspdet.predict("runs/csppelee_efm_sam/best.pt", "street.jpg", min_score=0.5).box_xyxy.shape
        torch.Size([3, 4])

    Args:
        model: A model as for `load`, a loaded model, or a predictor.
        source: One image or several images. An image is a path, the bytes of an image file, an array, a tensor or a PIL
            image. A path can also be a folder or a glob pattern.
        bgr: Whether the channels of arrays and tensors are BGR, as `cv2.imread` returns them, instead of RGB.
        options: Keyword arguments of `load_detector` or `load_classifier`; for a predictor, those of `model.predict`.

    Returns:
        One result for one image, a list of results for several images. A result of a detector has boxes in image
        pixels; a result of a classifier has class probabilities. The results of a folder or glob are sorted by path.

    Raises:
        UserError: The model, an option or an image cannot be used.
    """
    return predict_images(model, source, bgr=bgr, **options)


def export(
    model: str | Path,
    format: str,
    output: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    config: ExportConfig = ExportConfig(),  # noqa: B008
) -> ExportResult:
    """Export a model to another format and verify the outputs against PyTorch.

    Example:
        >>> cspdet.export("runs/csppelee_efm_sam/best.pt", "onnx").paths
        (PosixPath('runs/csppelee_efm_sam/best.onnx'),)

    Args:
        model: A checkpoint, or a config with `weights`.
        format: onnx, openvino, torchscript, darknet, safetensors, or `module:Class` of an imported module.
        output: The file to write. None: a file next to the checkpoint; for a config, a file in the working directory.
        weights: Trained weights for a config.
        overrides: `key.path=value` for the config.
        config: Input size, outputs, NMS, precision and other options.

    Returns:
        The paths of the written files, and the largest difference between their outputs and the outputs of PyTorch.

    Raises:
        UserError: The model or an option is not supported by the format, or the outputs differ from PyTorch. No file is
            kept.
    """
    return export_model(model, format, output, config, weights=weights, overrides=overrides)


def analyze(
    results: str | Path | Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    data: str | Path | None = None,
    split: str = "val",
    output: str | Path | None = None,
    config: AnalysisConfig = AnalysisConfig(),  # noqa: B008
    page: bool = True,
) -> AnalysisReport:
    """Analyze the errors of detections, and compare several runs.

    Example:
        >>> report = cspdet.analyze(["runs/a/detections.json", "runs/b/detections.json"])
        >>> num_gt = report.analyses[0].num_gt

    Args:
        results: COCO results files, such as the `detections.json` of a run.
        names: Names of the runs in the tables and the page; None: the file names.
        data: Data descriptor; None: `data` of the `config.yaml` in the folder of each results file.
        split: The split on which the detections were computed.
        output: Folder for `analysis.json`, CSV tables and the page; None: `runs/analyze`, or `runs/analyze-2` ... if it
            exists.
        config: Thresholds, number of resamples and gallery size.
        page: Whether `index.html` is written.

    Returns:
        The analysis of each run, the comparison of the runs, and the written files.

    Raises:
        UserError: A file is missing or damaged, or the results belong to another dataset.
    """
    paths = [results] if isinstance(results, (str, Path)) else results
    return analyze_results_files(paths, names=names, data=data, split=split, output=output, config=config, page=page)
