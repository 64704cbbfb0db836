"""Verification of built-in NMS, with a score threshold that leaves enough detections to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cspdet.errors import UserError
from cspdet.inference.engines.base import Engine
from cspdet.inference.engines.batching import split_detections
from cspdet.inference.metadata import NmsConfig
from cspdet.models.config import PostprocessConfig
from cspdet.models.postprocess import postprocess
from cspdet.structures import Detections

# The score threshold is lowered until this number of detections remains in each batch; fewer than the minimum in all
# batches verify nothing.
TARGET_DETECTIONS = 50
MIN_DETECTIONS = 10
CANDIDATES = (100, 200, 400, 800, 1500)  # numbers of candidates of NMS to try
# Scores are compared as a fraction of the largest, or of this value if it is larger: runtimes approximate the sigmoid
# with an absolute error.
MIN_SCORE_SCALE = 1e-2
SCORE_TOLERANCE = 1e-5  # scores that differ by this fraction are equal

Decoded = tuple[Tensor, ...]  # boxes (B, S, 4) and scores (B, S, C)
ProbeLoader = Callable[[NmsConfig], Engine | None]


def verify_nms(engine: Engine, load_probe: ProbeLoader, inputs: Sequence[Tensor], decoded: Sequence[Decoded]) -> float:
    """Compare the detections of a file with built-in NMS with the detections of `cspdet.models.postprocess`.

    With the score threshold of the file, random inputs may have no detections. Therefore the graph is also run with a
    lower threshold.

    Args:
        engine: The engine that loaded the file.
        load_probe: Loads the graph with other thresholds and the outputs detections, boxes and scores, or returns None
            if the format does not support this.
        inputs: Batches (B, 3, H, W) in [0, 1].
        decoded: Boxes and scores of each batch, from the graph if possible, else from the network.

    Returns:
        The largest `detections_difference` of an image; infinite if the number of detections differs.

    Raises:
        UserError: Too few detections remain to compare.
    """
    nms = engine.metadata.nms
    assert nms is not None
    lower = lower_min_score(nms, decoded)
    probe = load_probe(lower)
    differences: list[float] = []
    count = 0
    for images, batch in zip(inputs, decoded, strict=True):
        runs = [(engine.detect(images, _to_postprocess(nms)), nms)]
        if probe is not None:
            runs.append((split_detections(probe(images)[0], len(images)), lower))
        for actual, config in runs:
            expected = postprocess(batch[0], batch[1], _to_postprocess(config))
            for a, b in zip(actual, expected, strict=True):
                differences.append(detections_difference(*_without_ties_at_limit(a, b, config.max_detections)))
                count += len(b)
    if count < MIN_DETECTIONS:
        highest = max(float(score.max()) for _, score in decoded)
        raise UserError(
            f"only {count} detections remain to verify NMS, expected at least {MIN_DETECTIONS}: the highest score of "
            f"the network is {highest:.1e}"
        )
    return float(torch.tensor(differences).max())


def lower_min_score(nms: NmsConfig, decoded: Sequence[Decoded]) -> NmsConfig:
    """Return thresholds with which at least TARGET_DETECTIONS detections remain in each batch, if possible.

    A lowered score threshold is midway between two scores, so that rounding errors do not change the result.
    `max_detections` never separates detections with equal scores, because their order may differ.
    """
    scores = [score.flatten().sort(descending=True).values for _, score in decoded]
    detections: list[list[Detections]] = []
    threshold = nms.min_score
    for num_candidates in CANDIDATES:
        last = min(float(values[min(num_candidates, len(values)) - 1]) for values in scores)
        higher = torch.cat([values[values > last] for values in scores])
        threshold = min((last + float(higher.min())) / 2 if len(higher) else last / 2, nms.min_score)
        config = PostprocessConfig(min_score=threshold, nms_iou=nms.nms_iou, max_detections=CANDIDATES[-1])
        detections = [postprocess(batch[0], batch[1], config) for batch in decoded]
        if min(sum(map(len, batch)) for batch in detections) >= TARGET_DETECTIONS:
            break
    limit = max(nms.max_detections, TARGET_DETECTIONS)
    listed = [found.score.tolist() for batch in detections for found in batch]
    while any(len(values) > limit and values[limit - 1] == values[limit] for values in listed):
        limit += 1
    return NmsConfig(min_score=threshold, nms_iou=nms.nms_iou, max_detections=limit)


def _without_ties_at_limit(actual: Detections, expected: Detections, limit: int) -> tuple[Detections, Detections]:
    """If there are `limit` detections, drop those with the lowest score from both sets.

    Among detections with equal scores, NMS may keep any.
    """
    if len(actual) != len(expected) or len(expected) < limit:
        return actual, expected
    lowest = float(expected.score[-1]) * (1 + SCORE_TOLERANCE)
    return _above(actual, lowest), _above(expected, lowest)


def _above(detections: Detections, score: float) -> Detections:
    keep = detections.score > score
    return Detections(detections.box_xyxy[keep], detections.score[keep], detections.class_id[keep])


def detections_difference(actual: Detections, expected: Detections) -> float:
    """Return the largest relative difference between two sets of detections of an image.

    The order of detections with equal scores does not matter, because both sets are sorted by class and box. If the
    number of detections differs, the difference is infinite.
    """
    if len(actual) != len(expected):
        return float("inf")
    if len(actual) == 0:
        return 0.0
    actual_rows, expected_rows = _sorted_rows(actual), _sorted_rows(expected)
    scale = expected_rows.abs().amax(dim=0).maximum(torch.tensor([1.0] * 5 + [MIN_SCORE_SCALE]))
    return float(((actual_rows - expected_rows).abs().amax(dim=0) / scale).max())


def _to_postprocess(nms: NmsConfig) -> PostprocessConfig:
    return PostprocessConfig(min_score=nms.min_score, nms_iou=nms.nms_iou, max_detections=nms.max_detections)


def _sorted_rows(detections: Detections) -> Tensor:
    """Return an (N, 6) tensor with the columns class, x1, y1, x2, y2 and score.

    Rows are sorted by class, then by box coordinates rounded to a tenth of a pixel.
    """
    rows = torch.cat((detections.class_id[:, None].float(), detections.box_xyxy, detections.score[:, None]), dim=1)
    keys = [tuple(round(value, 1) for value in row[:5]) for row in rows.tolist()]
    return rows[sorted(range(len(keys)), key=lambda i: keys[i])]
