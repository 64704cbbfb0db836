"""cspdet: object detectors with cross stage partial backbones (CSPNet, Wang et al., arXiv 1911.11929).

Example:
    >>> import cspdet
    >>> cspdet.train("csppelee_efm_sam", overrides=["data=data/shapes/shapes.yaml"])
    >>> cspdet.predict("runs/csppelee_efm_sam/best.pt", "street.jpg")

See `cspdet.api` for the functions. Public names are imported on first use, so that `import cspdet` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cspdet.api import (
        AnalysisConfig,
        AnalysisReport,
        Evaluation,
        ExportConfig,
        ExportResult,
        ModelBundle,
        TrainingRun,
        analyze,
        evaluate,
        export,
        fetch,
        load,
        load_classifier,
        load_detector,
        predict,
        push_to_hub,
        train,
    )
    from cspdet.errors import UserError
    from cspdet.inference.classifier import ClassifierPredictor
    from cspdet.inference.prediction import Prediction
    from cspdet.inference.predictor import Predictor
    from cspdet.inference.results import Detection, DetectionResult
    from cspdet.recipe import ClassificationRecipe, DetectionRecipe, Recipe, load_recipe
    from cspdet.structures import Detections

__version__ = "0.1.0"  # pyproject.toml and the Makefile read this line

_API_NAMES = (
    "AnalysisConfig", "AnalysisReport", "Evaluation", "ExportConfig", "ExportResult", "ModelBundle", "TrainingRun",
    "analyze", "evaluate", "export", "fetch", "load", "load_classifier", "load_detector", "predict",
    "push_to_hub", "train",
)  # fmt: skip
_LAZY_IMPORTS = {
    **dict.fromkeys(_API_NAMES, "cspdet.api"),
    "ClassificationRecipe": "cspdet.recipe",
    "ClassifierPredictor": "cspdet.inference.classifier",
    "Detection": "cspdet.inference.results",
    "DetectionRecipe": "cspdet.recipe",
    "DetectionResult": "cspdet.inference.results",
    "Detections": "cspdet.structures",
    "Prediction": "cspdet.inference.prediction",
    "Predictor": "cspdet.inference.predictor",
    "Recipe": "cspdet.recipe",
    "UserError": "cspdet.errors",
    "load_recipe": "cspdet.recipe",
}

__all__ = [
    "AnalysisConfig",
    "AnalysisReport",
    "ClassificationRecipe",
    "ClassifierPredictor",
    "Detection",
    "DetectionRecipe",
    "DetectionResult",
    "Detections",
    "Evaluation",
    "ExportConfig",
    "ExportResult",
    "ModelBundle",
    "Prediction",
    "Predictor",
    "Recipe",
    "TrainingRun",
    "UserError",
    "__version__",
    "analyze",
    "evaluate",
    "export",
    "fetch",
    "load",
    "load_classifier",
    "load_detector",
    "load_recipe",
    "predict",
    "push_to_hub",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is used for the first time."""
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'cspdet' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY_IMPORTS[name]), name)


def __dir__() -> list[str]:
    """List all public names, including those that are not imported yet."""
    return sorted({*globals(), *__all__})
