"""Comparison of the outputs of two engines: decoded boxes and scores of synthetic images."""

from __future__ import annotations

import torch
from torch import Tensor

from cspdet.models.head import Anchors
from cspdet.models.postprocess import decode

# fp32: limit of the maximum error of a box or score. Lower precisions: limit of the mean error, because single logits
# differ more.
MAX_ERROR = 1e-3
MAX_MEAN_ERROR = 1e-2


def probe_inputs(size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return two fixed images (1, 3, H, W) in [0, 1]: one of noise, and one of smooth patches."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, *size_hw, generator=generator)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    return noise, torch.nn.functional.interpolate(coarse, size_hw, mode="bilinear")


def prediction_differences(
    actual: tuple[Tensor, ...], expected: tuple[Tensor, ...], anchors: Anchors, size_hw: tuple[int, int]
) -> Tensor:
    """Compute the largest error of the box and the scores of each prior.

    Errors of scores are absolute. Errors of boxes are relative to the longer side of the input, or to the longer side
    of the box if the box is longer than the input.

    Args:
        actual: Raw outputs to check, (B, A, H_l, W_l, 5 + C) per level.
        expected: Raw outputs of the reference.
        anchors: Anchors of the head.
        size_hw: Height and width of the input.

    Returns:
        (B, S) error of each prior.
    """
    like = expected[0].device
    box_xyxy, score = decode(tuple(values.to(like).float() for values in actual), anchors)
    true_xyxy, true_score = decode(expected, anchors)
    box_size = (true_xyxy[..., 2:] - true_xyxy[..., :2]).amax(dim=-1).clamp(min=max(size_hw))
    boxes = (box_xyxy - true_xyxy).abs().amax(dim=-1) / box_size
    return torch.maximum(boxes, (score - true_score).abs().amax(dim=-1))


def _describe_difference(worst: float, average: float, precision: str) -> str | None:
    """Return an error message, or None if the differences of boxes and scores are small enough for the precision."""
    if precision == "fp32":
        allowed = worst <= MAX_ERROR
        return None if allowed else f"its boxes or scores differ by {worst:.1e}; expected at most {MAX_ERROR:g}"
    if average <= MAX_MEAN_ERROR:
        return None
    return f"its boxes and scores differ by {average:.1e} on average; expected at most {MAX_MEAN_ERROR:g}"


def parity_error(
    actual: list[tuple[Tensor, ...]],
    expected: list[tuple[Tensor, ...]],
    anchors: Anchors,
    precision: str,
    size_hw: tuple[int, int],
) -> str | None:
    """Compare the raw outputs of an engine with the raw outputs of a reference.

    Args:
        actual: Raw outputs of each image.
        expected: Raw outputs of the reference.
        anchors: Anchors of the head.
        precision: Precision of the engine.
        size_hw: Height and width of the input.

    Returns:
        A description of the difference, or None if the outputs agree.
    """
    shapes = [[tuple(values.shape) for values in outputs] for outputs in actual]
    if shapes != [[tuple(values.shape) for values in outputs] for outputs in expected]:
        return f"its outputs have other shapes: {shapes[0]}"
    apart = torch.stack([prediction_differences(a, b, anchors, size_hw) for a, b in zip(actual, expected, strict=True)])
    return _describe_difference(float(apart.max()), float(apart.mean()), precision)
