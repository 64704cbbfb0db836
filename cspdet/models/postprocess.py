"""Post-processing of a YOLO head: decoding, score threshold, class-wise NMS, limit of detections, box voting.

All functions are pure. Letters as in `cspdet.structures`: B images, A anchors per level, S priors, C classes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from cspdet.boxes import decode_wh, iou
from cspdet.models.config import PostprocessConfig
from cspdet.structures import Detections

if TYPE_CHECKING:
    from cspdet.models.head import Anchors


# NMS uses at most the best `PRE_NMS_FACTOR * max_detections` candidates per image. With a low `min_score` nearly every
# prior is a candidate, but candidates after the first few thousand are not among the best 100 detections.
PRE_NMS_FACTOR = 30

# For NMS only, coordinates are clamped to [-MAX_NMS_COORDINATE, MAX_NMS_COORDINATE] pixels, twice the largest input, so
# that areas do not overflow. Boxes of each class are shifted by more than twice this value, so that classes do not
# overlap.
MAX_NMS_COORDINATE = 16384.0

# Box voting compares at most this many pairs of boxes at once, so that it needs only a few megabytes.
MAX_IOU_PAIRS = 2**20


def decode_boxes(raw: tuple[Tensor, ...], anchors: Anchors) -> Tensor:
    """Decode the boxes of raw outputs.

    The center is at the fraction s sigmoid(t) - (s - 1) / 2 of its cell, where t is a raw output and s is `scale_x_y`;
    YOLOv3 has s = 1. The width and height are the anchor times exp(t), as in YOLOv3. If `wh_decoding` is "square", they
    are the anchor times (2 sigmoid(t))^2.

    Args:
        raw: One (B, A, H_l, W_l, 4 or more) per level, finest first; the first four channels are tx, ty, tw, th.
        anchors: Anchor sizes, strides and decoding of the head.

    Returns:
        (B, S, 4) boxes x1 y1 x2 y2 in input pixels, ordered by level, anchor, row and column.
    """
    boxes = []
    for level, values in enumerate(raw):
        grid = _make_grid(values.shape[2], values.shape[3], values)
        scale, stride = anchors.scale_x_y[level], anchors.stride[level]
        center = (values[..., 0:2].sigmoid() * scale - (scale - 1) / 2 + grid) * stride
        half = decode_wh(values[..., 2:4], anchors.wh_decoding) * (anchors.wh[level] / 2).view(1, -1, 1, 1, 2)
        boxes.append(torch.cat((center - half, center + half), dim=-1).flatten(1, 3))
    return torch.cat(boxes, dim=1)


def decode(raw: tuple[Tensor, ...], anchors: Anchors) -> tuple[Tensor, Tensor]:
    """Decode raw outputs to boxes and class scores.

    Args:
        raw: One (B, A, H_l, W_l, 5 + C) per level, finest first.
        anchors: Anchor sizes, strides and decoding of the head.

    Returns:
        Boxes (B, S, 4), x1 y1 x2 y2 in input pixels, and scores (B, S, C). A score is the objectness times the class
        probability.
    """
    outputs = torch.cat([values[..., 4:].flatten(1, 3) for values in raw], dim=1).float().sigmoid()
    box_xyxy = decode_boxes(tuple(values[..., :4].float() for values in raw), anchors)
    return box_xyxy, outputs[..., :1] * outputs[..., 1:]


def decode_and_nms(raw: tuple[Tensor, ...], anchors: Anchors, config: PostprocessConfig) -> list[Detections]:
    """Convert the raw outputs of a detector to detections.

    The result is equal to `postprocess(*decode(raw, anchors), config)`, but is computed faster. A score is never above
    the objectness of its prior. So class scores are computed only for priors with an objectness above
    `config.min_score`.

    Args:
        raw: One (B, A, H_l, W_l, 5 + C) per level, finest first.
        anchors: Anchor sizes, strides and decoding of the head.
        config: Thresholds and limits; `clip_boxes` is applied later, in image coordinates.

    Returns:
        The detections of each image, sorted by descending score, in input pixels.
    """
    box_xyxy = decode_boxes(tuple(values[..., :4].float() for values in raw), anchors)
    results = []
    for image_index in range(box_xyxy.shape[0]):
        priors, scores = _scores_above(raw, image_index, config.min_score)
        results.append(_nms_image(box_xyxy[image_index, priors], scores, config))
    return results


def _scores_above(raw: tuple[Tensor, ...], image_index: int, min_score: float) -> tuple[Tensor, Tensor]:
    """Return the (N,) indices of the priors of an image with objectness above `min_score`, and their (N, C) scores."""
    priors, scores, first = [], [], 0
    for values in raw:
        objectness = values[image_index, ..., 4].float().sigmoid()
        index = torch.where(objectness > min_score)
        classes = values[image_index, ..., 5:][index].float().sigmoid()
        scores.append(objectness[index][:, None] * classes)
        _, height, width = objectness.shape
        priors.append(first + (index[0] * height + index[1]) * width + index[2])
        first += objectness.numel()
    return torch.cat(priors), torch.cat(scores)


def postprocess(box_xyxy: Tensor, score: Tensor, config: PostprocessConfig) -> list[Detections]:
    """Apply score threshold, class-wise NMS, limit of detections and box voting to decoded outputs.

    Every pair of prior and class with a score above `min_score` is a candidate. For each class, greedy NMS removes
    boxes whose IoU with a kept box of higher score is above `nms_iou`. At most `max_detections` per image remain,
    sorted by descending score. Equal scores are ordered by (prior, class). Candidates whose box or score is not finite
    are dropped. With `vote_iou`, `vote_boxes` replaces the remaining boxes.

    Args:
        box_xyxy: (B, S, 4) boxes.
        score: (B, S, C) class scores.
        config: Thresholds and limits; `clip_boxes` is not applied.

    Returns:
        The detections of each image, in the coordinates of the given boxes.
    """
    return [_nms_image(box, values, config) for box, values in zip(box_xyxy, score, strict=True)]


def vote_boxes(box_xyxy: Tensor, score: Tensor, class_id: Tensor, kept: Tensor, vote_iou: float) -> Tensor:
    """Average each kept box with the candidates that overlap it (box voting).

    Each kept box is replaced by a score-weighted average (Gidaris and Komodakis 2015, arXiv:1505.01749) of itself and
    all candidates of its class whose IoU with the kept box is above `vote_iou`. Scores do not change.

    Args:
        box_xyxy: (N, 4) boxes of all candidates before NMS.
        score: (N,) scores of the candidates.
        class_id: (N,) class indices of the candidates.
        kept: (K,) indices of the candidates that NMS kept.
        vote_iou: IoU above which a candidate votes.

    Returns:
        (K, 4) boxes.
    """
    box, weight, moved = box_xyxy.double(), score.double(), [box_xyxy[:0].double()]
    clamped = box_xyxy.clamp(-MAX_NMS_COORDINATE, MAX_NMS_COORDINATE)
    for part in kept.split(max(1, MAX_IOU_PAIRS // max(1, len(box)))):
        near = (iou(clamped[part][:, None], clamped[None]) > vote_iou) & (class_id[part][:, None] == class_id[None])
        near[torch.arange(len(part), device=near.device), part] = True  # includes boxes without area (IoU 0)
        votes = near * weight
        moved.append(votes @ box / votes.sum(dim=1, keepdim=True))
    return torch.cat(moved).to(box_xyxy.dtype)


def _nms_image(box_xyxy: Tensor, score: Tensor, config: PostprocessConfig) -> Detections:
    """Apply `postprocess` to one image with boxes (S, 4) and scores (S, C)."""
    classes = score.shape[1]
    flat = score.detach().float().flatten()
    index = _topk_above(flat, config.min_score, PRE_NMS_FACTOR * config.max_detections)
    box = box_xyxy.detach()[index // max(classes, 1)].float()
    finite = box.isfinite().all(dim=1) & flat[index].isfinite()
    box, index = box[finite], index[finite]
    class_id = index % max(classes, 1)
    kept = _nms(box, flat[index], class_id, config)
    best = box[kept] if config.vote_iou is None else vote_boxes(box, flat[index], class_id, kept, config.vote_iou)
    return Detections(best, flat[index[kept]], class_id[kept])


def _topk_above(flat: Tensor, threshold: float, limit: int) -> Tensor:
    """Return the indices of at most `limit` values of `flat` (M,) above `threshold`, highest value first.

    Equal values keep their order.
    """
    if flat.device.type == "cpu":  # numpy scans and partitions several times faster than torch on the CPU
        values = flat.numpy()
        index = torch.from_numpy(np.flatnonzero(values > threshold))
        if len(index) > limit:
            last = np.partition(values[index.numpy()], len(index) - limit)[len(index) - limit]
            index = index[flat[index] >= last]
    else:
        index = (flat > threshold).nonzero()[:, 0]
        if len(index) > limit:
            index = index[flat[index] >= flat[index].topk(limit).values[-1]]
    return index[flat[index].sort(descending=True, stable=True).indices[:limit]]


def _nms(box_xyxy: Tensor, score: Tensor, class_id: Tensor, config: PostprocessConfig) -> Tensor:
    """Apply class-wise NMS to boxes (N, 4) sorted by descending score; return the indices of at most `max_detections`.

    NMS is applied to the first 4 * max_detections boxes, then to more boxes until enough boxes are kept. The result is
    the same as for all boxes, because only a box with a higher score can remove a box. This avoids the quadratic cost
    of all boxes.
    """
    class_offset = class_id.double()[:, None] * (3 * MAX_NMS_COORDINATE)
    shifted = box_xyxy.double().clamp(-MAX_NMS_COORDINATE, MAX_NMS_COORDINATE) + class_offset
    count = 4 * config.max_detections
    while True:
        kept = _load_nms()(shifted[:count], score[:count].double(), config.nms_iou)
        if len(kept) >= config.max_detections or count >= len(box_xyxy):
            return kept[: config.max_detections]
        count *= 3


@functools.cache
def _load_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    """Return torchvision's NMS operator.

    Only the library with the operators is loaded. Importing the package torchvision would also import torch's compiler,
    which takes two seconds. If the library cannot be loaded, the package is imported.
    """
    spec = None if "torchvision" in sys.modules else find_spec("torchvision")
    folders = spec.submodule_search_locations if spec is not None else None
    for library in [path for folder in folders or () for path in sorted(Path(folder).glob("_C*.*"))]:
        try:
            torch.ops.load_library(library)
            return cast(Callable[[Tensor, Tensor, float], Tensor], torch.ops.torchvision.nms.default)
        except (OSError, AttributeError):
            continue
    from torchvision.ops import nms

    return cast(Callable[[Tensor, Tensor, float], Tensor], nms)


def _make_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Return the column and row of each cell, (H, W, 2), with the dtype and device of `like`."""
    if torch.onnx.is_in_onnx_export():  # OpenCV's DNN module cannot run the Range of arange
        ones = like.new_ones(height, width)
        return torch.stack((ones.cumsum(1) - 1, ones.cumsum(0) - 1), dim=-1)
    row, col = torch.meshgrid(
        torch.arange(height, device=like.device, dtype=like.dtype),
        torch.arange(width, device=like.device, dtype=like.dtype),
        indexing="ij",
    )
    return torch.stack((col, row), dim=-1)
