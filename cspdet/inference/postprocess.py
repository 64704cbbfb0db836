"""From decoded slots to detections: threshold, class-wise NMS, box voting if wanted, the best of each picture.

Pure functions.
"""

from __future__ import annotations

import numpy as np
import torch
import torchvision
from torch import Tensor

from cspdet.boxes import iou
from cspdet.models.head import Anchors, decode_boxes
from cspdet.structures import Detections

# NMS looks at this many times `max_detections` of a picture's best candidates, never at more: at a low
# `min_score` nearly every slot is one, and what stands behind the first thousands is not among the first 100.
PRE_NMS_FACTOR = 30

# For NMS alone, boxes are cut to +-this many pixels, twice the largest input: so no area overflows, and an
# offset a class of more than twice this keeps the classes apart.
MAX_NMS_COORDINATE = 16384.0

# Box voting compares so many pairs of boxes at once, which keeps it within some megabytes.
MAX_IOU_PAIRS = 2**20


def postprocess(
    box_xyxy: Tensor,
    score: Tensor,
    *,
    min_score: float,
    nms_iou: float,
    max_detections: int,
    vote_iou: float | None = None,
) -> list[Detections]:
    """Boxes (B, S, 4) and class scores (B, S, C) to each picture's detections, in the frame of the boxes.

    Every pair of slot and class that scores above `min_score` is a candidate. Of each class, greedy NMS drops
    what overlaps a better box by more than `nms_iou`; at most `max_detections` remain a picture, best first,
    equal scores in the order of (slot, class). Candidates with a box or score that is not finite are dropped. With
    `vote_iou`, the boxes that remain are those of `vote_boxes`.
    """
    return [
        _nms_image(box, values, min_score, nms_iou, max_detections, vote_iou)
        for box, values in zip(box_xyxy, score, strict=True)
    ]


def decode_and_nms(
    raw: tuple[Tensor, ...],
    anchors: Anchors,
    *,
    min_score: float,
    nms_iou: float,
    max_detections: int,
    vote_iou: float | None = None,
) -> list[Detections]:
    """`postprocess(*decode(raw, anchors), ...)`, but faster: no score exceeds its slot's objectness, so the
    class scores are worked out only where the objectness is above `min_score`.

    raw      one (B, A, H_l, W_l, 5 + C) a scale
    returns  the detections of each picture, in input pixels
    """
    box_xyxy = decode_boxes(tuple(values[..., :4].float() for values in raw), anchors)
    found = []
    for image_index in range(box_xyxy.shape[0]):
        priors, scores, first = [], [], 0
        for values in raw:
            objectness = values[image_index, ..., 4].float().sigmoid()
            index = torch.where(objectness > min_score)
            classes = values[image_index, ..., 5:][index].float().sigmoid()
            scores.append(objectness[index][:, None] * classes)
            _, height, width = objectness.shape
            priors.append(first + (index[0] * height + index[1]) * width + index[2])
            first += objectness.numel()
        box, score = box_xyxy[image_index, torch.cat(priors)], torch.cat(scores)
        found.append(_nms_image(box, score, min_score, nms_iou, max_detections, vote_iou))
    return found


def vote_boxes(box_xyxy: Tensor, score: Tensor, class_id: Tensor, kept: Tensor, vote_iou: float) -> Tensor:
    """The boxes of the K candidates `kept` by NMS, moved to where their neighbors see the object: (K, 4).

    Each becomes the average of all candidates of its class that overlap it by more than `vote_iou`, itself among
    them, weighted by their scores: box voting (Gidaris and Komodakis 2015, arXiv:1505.01749). Scores stay.

    box_xyxy, score, class_id  all N candidates before NMS, (N, 4), (N,), (N,)
    kept                       indices (K,) of those that stay
    """
    box, weight, moved = box_xyxy.double(), score.double(), [box_xyxy[:0].double()]
    clamped = box_xyxy.clamp(-MAX_NMS_COORDINATE, MAX_NMS_COORDINATE)
    for some in kept.split(max(1, MAX_IOU_PAIRS // max(1, len(box)))):
        near = (iou(clamped[some][:, None], clamped[None]) > vote_iou) & (class_id[some][:, None] == class_id[None])
        near[torch.arange(len(some), device=near.device), some] = True  # a box without area overlaps nothing
        votes = near * weight
        moved.append(votes @ box / votes.sum(dim=1, keepdim=True))
    return torch.cat(moved).to(box_xyxy.dtype)


def _nms_image(
    box_xyxy: Tensor, score: Tensor, min_score: float, nms_iou: float, max_detections: int, vote_iou: float | None
) -> Detections:
    """One picture: boxes (S, 4), scores (S, C)."""
    classes = score.shape[1]
    flat = score.detach().float().flatten()
    index = _topk_above(flat, min_score, PRE_NMS_FACTOR * max_detections)
    box = box_xyxy.detach()[index // max(classes, 1)].float()
    finite = box.isfinite().all(dim=1) & flat[index].isfinite()
    box, index = box[finite], index[finite]
    class_id = index % max(classes, 1)
    kept = _nms(box, flat[index], class_id, nms_iou, max_detections)
    best = box[kept] if vote_iou is None else vote_boxes(box, flat[index], class_id, kept, vote_iou)
    return Detections(best, flat[index[kept]], class_id[kept])


def _topk_above(flat: Tensor, threshold: float, limit: int) -> Tensor:
    """Where the `limit` highest above `above` stand in `flat` (M,): highest first, equal ones in order."""
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


def _nms(box_xyxy: Tensor, score: Tensor, class_id: Tensor, nms_iou: float, max_detections: int) -> Tensor:
    """Indices of what survives class-wise NMS, at most `max_detections`; the boxes (N, 4) come best first.

    Greedy NMS never looks back, so the survivors of the first n boxes are the first survivors of all: usually
    a few boxes a wanted detection settle it, and the quadratic cost of the long tail is not paid.
    """
    apart = class_id.double()[:, None] * (3 * MAX_NMS_COORDINATE)
    shifted = box_xyxy.double().clamp(-MAX_NMS_COORDINATE, MAX_NMS_COORDINATE) + apart
    count = 4 * max_detections
    while True:
        kept = torchvision.ops.nms(shifted[:count], score[:count].double(), nms_iou)
        if len(kept) >= max_detections or count >= len(box_xyxy):
            return kept[:max_detections]
        count *= 3
