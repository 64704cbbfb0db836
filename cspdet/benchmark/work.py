"""How many operations a row's network has: what its rate is reckoned from."""

from __future__ import annotations

from pathlib import Path

from cspdet.benchmark.rows import BenchmarkSpec
from cspdet.benchmark.target import TORCHVISION_PREFIX, torchvision_classifier
from cspdet.checkpoints.model_profile import profile_model
from cspdet.inference.engines.exported import is_exported
from cspdet.models.profile import profile


def count_bflops(spec: BenchmarkSpec, size_hw: tuple[int, int]) -> float | None:
    """10^9 operations of a forward pass of one picture, as `cspdet info` counts; None for an exported file."""
    if spec.model.startswith(TORCHVISION_PREFIX):
        network, _ = torchvision_classifier(spec.model, size_hw)
        return profile(network, size_hw).bflops
    if is_exported(spec.model):
        return None
    return profile_model(Path(spec.model), spec.overrides, size_hw).cost.bflops
