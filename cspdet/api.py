"""The functions of cspdet for use from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from cspdet.analysis.build import analyze as analyze_run
from cspdet.analysis.comparison import compare
from cspdet.analysis.config import AnalysisConfig
from cspdet.analysis.matched_run import match_results
from cspdet.analysis.structures import Analysis, Comparison
from cspdet.analysis.tables import write_tables
from cspdet.checkpoints.loading import load_model
from cspdet.config.read import read_yaml
from cspdet.datasets.classification.crops import build_image_crop
from cspdet.datasets.config import Interpolation
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.device import select_device
from cspdet.errors import ConfigError, DataError
from cspdet.evaluation.coco import evaluate_results
from cspdet.evaluation.results import read_results
from cspdet.inference.classifier import ClassifierPredictor, override_eval_config
from cspdet.inference.config import EngineConfig
from cspdet.inference.engines.factory import build_engine
from cspdet.inference.predictor import Predictor
from cspdet.io.folders import increment_path
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


@dataclass(frozen=True)
class AnalysisReport:
    """The result of `analyze`.

    Attributes:
        analyses: One per results file, in the given order.
        comparison: The comparison of all others with the first one; None for a single results file.
        annotations: The annotation file that the detections were compared with.
        output: The folder of the files.
        files: Names of the written tables.
        page: The HTML page; None if none was written.
    """

    analyses: tuple[Analysis, ...]
    comparison: Comparison | None
    annotations: Path
    output: Path
    files: tuple[str, ...]
    page: Path | None


def analyze(
    results: Sequence[str | Path],
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
        results: COCO results files, such as the `detections.json` of a run or of `evaluate`.
        names: Their names in tables and page; None: the file names.
        data: Data descriptor; None: the one that the `config.yaml` beside the results files names.
        split: Name of the split that the detections are of.
        output: Folder for `analysis.json`, CSV tables and the page; None: `runs/analyze`, or `-2`, `-3` ... of it.
        config: Thresholds and amounts.
        page: Whether `index.html` is written.

    Returns:
        The analyses, their comparison, and the written files.

    Raises:
        UserError: A missing or damaged file, or results of another data set.
    """
    paths = [Path(path) for path in results]
    names = [path.name for path in paths] if names is None else names
    dataset = _load_analysis_split(data or _descriptor_from_configs(paths), split)
    detections = [read_results(path, dataset) for path in paths]  # report all errors before the slow part
    matched_runs = [match_results(dataset, listed, iou=config.min_iou) for listed in detections]
    analyses = tuple(
        analyze_run(
            run, evaluate_results(dataset, listed), name=name, source=str(path), min_score=config.min_score,
            gallery=config.gallery,
        )
        for run, listed, name, path in zip(matched_runs, detections, names, paths, strict=True)
    )  # fmt: skip
    comparison = None
    if len(paths) > 1:
        comparison = compare(matched_runs, names, resamples=config.resamples, seed=config.seed)
    folder = increment_path(Path("runs/analyze")) if output is None else Path(output)
    files = tuple(write_tables(folder, analyses, comparison))
    page_path = folder / "index.html" if page else None
    if page_path is not None:
        from cspdet.reports.analysis_page import write_analysis_page  # jinja2 and matplotlib, for the page only

        write_analysis_page(page_path, analyses, comparison, dataset, gallery=config.gallery)
    return AnalysisReport(analyses, comparison, dataset.files.annotations, folder, files, page_path)


def _load_analysis_split(descriptor: str | Path, split: str) -> CocoDataset:
    """Load a split whose images may be missing: only the galleries of a page show them."""
    config = load_dataset_config(descriptor)
    files = getattr(config, split, None)
    if files is None or not files.annotations.is_file():
        files = config.split(split)  # raises the error
    return load_coco(files, split, allow_empty=True)


def _descriptor_from_configs(paths: Sequence[Path]) -> Path:
    """Return the data descriptor that the config.yaml beside each results file names.

    Raises:
        ConfigError: No config names one.
        DataError: They name different ones.
    """
    named: dict[str, Path] = {}
    for path in paths:
        config = path.parent / "config.yaml"
        content = read_yaml(config)[0] if config.is_file() else None
        data = content.get("data") if isinstance(content, dict) else None
        if isinstance(data, str):
            named.setdefault(data, path)
    if not named:
        raise ConfigError("analyze: --data DESCRIPTOR is missing, and no config.yaml beside the detections names one")
    if len(named) > 1:
        listed = "; ".join(f"{path.parent} is on {data}" for data, path in named.items())
        raise DataError(f"analyze: the runs use different data: {listed}. Choose the data of all with --data")
    return Path(next(iter(named)))
