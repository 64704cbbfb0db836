"""The functions of cspdet for use from Python; each command of the command line calls one of them.

Example:
    >>> import cspdet
    >>> run = cspdet.train("csppelee_efm_sam", overrides=["data=data/shapes.yaml", "train.epochs=10"])
    >>> cspdet.evaluate(run.run_dir / "best.pt").metrics["AP50"]
    0.93
    >>> detections = cspdet.predict(run.run_dir / "best.pt", "street.jpg")
    >>> cspdet.export(run.run_dir / "best.pt", "onnx")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cspdet.analysis.config import AnalysisConfig
from cspdet.checkpoints.loading import load_model
from cspdet.device import select_device
from cspdet.exporters.base import ExportConfig, ExportResult
from cspdet.inference.classifier import ClassifierPredictor, Prediction
from cspdet.inference.predictor import Predictor
from cspdet.models.bundle import ModelBundle, TaskName
from cspdet.structures import Detections
from cspdet.training.distributed.context import local_device
from cspdet.training.run.options import TrainOptions
from cspdet.workflows.analyze import AnalysisReport, analyze_results_files
from cspdet.workflows.evaluate import Evaluation, EvaluationOptions, evaluate_model
from cspdet.workflows.export import export_model
from cspdet.workflows.predict import load_classifier, load_detector, predict_images
from cspdet.workflows.train import TrainingRun, run_training

__all__ = [
    "AnalysisConfig", "AnalysisReport", "Evaluation", "ExportConfig", "ExportResult", "ModelBundle", "TrainingRun",
    "analyze", "evaluate", "export", "load", "load_classifier", "load_detector", "predict", "train",
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
        model: A checkpoint (`.pt`), a config (`.yaml` or the name of a released one), a Darknet `.cfg`, or an exported
            file.
        weights: Trained weights for a config; None: random values.
        overrides: `key.path=value` for the config.
        task: The expected task; None accepts both.

    Returns:
        The network in evaluation mode on the CPU (None for an exported file), with config and categories.

    Raises:
        UserError: A missing or damaged model, weights that do not fit, or a model for another task.
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
        >>> cspdet.train("csppelee_efm", overrides=["data=data/shapes.yaml", "train.epochs=3"]).run_dir
        PosixPath('runs/csppelee_efm')

    Args:
        config: A config file, or the name of a released config.
        output: The run folder; None: `runs/<config name>`, with -2, -3 ... if it exists.
        resume: Folder of a run to continue, in place of `config`.
        overrides: `key.path=value` for the config; of a resumed run only what its results do not depend on.
        weights: Initial weights: a checkpoint, Darknet's `.weights` or `.conv.N`, or timm:NAME.
        data: In place of `data` of the config.
        device: auto, cpu, cuda or cuda:N.
        stop_after: Stop after this epoch; the run can be resumed.
        task: The expected task; None accepts both.

    Returns:
        The run folder with best.pt, last.pt and metrics.jsonl, and the exit code: 0, or 130 or 143 if Ctrl-C or SIGTERM
        stopped the run, which is then saved and can be resumed.

    Raises:
        UserError: A config, data, weights or folder that cannot be used.
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
        0.93

    Args:
        model: A checkpoint, an exported file, or a config with `weights`.
        data: Data descriptor of a detector, image folder of a classifier; None: that of the model's own config.
        split: train, val or test.
        weights: Trained weights for a config.
        overrides: `key.path=value` for the config of the model.
        device: auto, cpu, cuda or cuda:N.
        backend: Engine of a detector; None: the network itself, of an exported file the fastest engine.
        precision: Precision of the engine.
        settings: Values in place of those of the model's `eval` section, such as `min_score`, `nms_iou` or `crop`.

    Returns:
        Metrics and predictions.

    Raises:
        UserError: A model, data or settings that cannot be used.
    """
    return evaluate_model(
        EvaluationOptions(
            model, weights, overrides, None, None if data is None else Path(data), split, device, backend, precision,
            settings,
        )
    )  # fmt: skip


def predict(
    model: str | Path | ModelBundle | Predictor | ClassifierPredictor,
    source: str | Path | np.ndarray,
    **options: Any,
) -> Detections | Prediction | list[Detections] | list[Prediction]:
    """Detect objects in images, or classify them.

    For several calls load the model once, with `load_detector` or `load_classifier`.

    Example:
        >>> cspdet.predict("runs/csppelee_efm_sam/best.pt", "street.jpg", min_score=0.5).box_xyxy.shape
        torch.Size([3, 4])

    Args:
        model: A model as for `load`, a loaded model, or a predictor.
        source: An image file, an (H, W, 3) uint8 RGB array, or a folder or glob of images.
        options: Keyword arguments of `load_detector` or `load_classifier`.

    Returns:
        The detections or class probabilities of one image; of a folder or glob, a list in the order of the paths.

    Raises:
        UserError: A model, option or image that cannot be used.
    """
    return predict_images(model, source, **options)


def export(
    model: str | Path,
    format: str,
    output: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    config: ExportConfig = ExportConfig(),  # noqa: B008
) -> ExportResult:
    """Export a model to another format, verified against the network.

    Example:
        >>> cspdet.export("runs/csppelee_efm_sam/best.pt", "onnx").paths
        (PosixPath('runs/csppelee_efm_sam/best.onnx'),)

    Args:
        model: A checkpoint, or a config with `weights`.
        format: onnx, openvino, torchscript, darknet, or `module:Class` of an imported module.
        output: The file to write; None: beside a checkpoint, for a config in the working directory.
        weights: Trained weights for a config.
        overrides: `key.path=value` for the config.
        config: Input size, outputs, NMS, precision and other options.

    Returns:
        The written files, and the largest difference of their outputs.

    Raises:
        UserError: A model or option that cannot be exported, or files that differ from the network; none is left.
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
        >>> report.analyses[0].num_gt
        1520

    Args:
        results: COCO results files, such as the `detections.json` of a run.
        names: Their names in tables and page; None: the file names.
        data: Data descriptor; None: the one that the `config.yaml` beside the results files names.
        split: Name of the split that the detections are of.
        output: Folder for `analysis.json`, CSV tables and the page; None: `runs/analyze`, with -2, -3 ... if it exists.
        config: Thresholds and amounts.
        page: Whether `index.html` is written.

    Returns:
        The analyses, their comparison, and the written files.

    Raises:
        UserError: A missing or damaged file, or results of another data set.
    """
    paths = [results] if isinstance(results, (str, Path)) else results
    return analyze_results_files(
        paths, names=names, data=data, split=split, output=output, config=config, page=page
    )  # fmt: skip
