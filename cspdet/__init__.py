"""cspdet: object detectors with cross stage partial backbones (CSPNet, Wang et al., arXiv 1911.11929)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cspdet.api import load_classifier, load_detector
    from cspdet.inference.classifier import ClassifierPredictor, Prediction
    from cspdet.inference.predictor import Predictor
    from cspdet.recipe import Recipe, load_recipe
    from cspdet.structures import Detections

__version__ = "0.1.0"  # setup.py and the Makefile read this line

__all__ = [
    "ClassifierPredictor",
    "Detections",
    "Prediction",
    "Predictor",
    "Recipe",
    "__version__",
    "load_classifier",
    "load_detector",
    "load_recipe",
]  # fmt: skip

_LAZY_IMPORTS = {
    "ClassifierPredictor": "cspdet.inference.classifier",
    "Detections": "cspdet.structures",
    "Prediction": "cspdet.inference.classifier",
    "Predictor": "cspdet.inference.predictor",
    "Recipe": "cspdet.recipe",
    "load_classifier": "cspdet.api",
    "load_detector": "cspdet.api",
    "load_recipe": "cspdet.recipe",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first asked for, so that `import cspdet` stays quick."""
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'cspdet' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY_IMPORTS[name]), name)
