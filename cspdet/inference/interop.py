"""Conversion of detections to `supervision.Detections` and to the MOTChallenge text format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cspdet.errors import ConfigError, describe_import_error
from cspdet.structures import Detections

if TYPE_CHECKING:
    import supervision


def to_supervision(detections: Detections, class_names: Sequence[str] = ()) -> supervision.Detections:
    """Convert detections to `supervision.Detections`, in the same order.

    Args:
        detections: The detections.
        class_names: Names of the classes, by class index; if given, the result has `data["class_name"]`.

    Raises:
        ConfigError: The package supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        reason = describe_import_error("supervision", error)
        raise ConfigError(f"{reason}; install it with: pip install 'supervision>=0.31'") from None
    class_id = detections.class_id.cpu().numpy()
    data = {"class_name": np.array([class_names[i] for i in class_id], dtype=np.str_)} if class_names else {}
    return supervision.Detections(
        xyxy=detections.box_xyxy.cpu().numpy().astype(np.float32).reshape(-1, 4),
        confidence=detections.score.cpu().numpy().astype(np.float32),
        class_id=class_id.astype(np.int64),
        data=data,
    )


def to_mot_lines(frame: int, detections: Detections, track_ids: Sequence[int | None] | None = None) -> list[str]:
    """Format detections as lines of a MOTChallenge text file: `frame,id,left,top,width,height,score,-1,-1,-1`.

    Args:
        frame: Number of the frame, starting at 1.
        detections: Detections in image pixels.
        track_ids: Track id of each detection; detections without a track are omitted. None: all ids are -1, as in
            MOTChallenge detection files, which are the input of trackers.
    """
    ids: Sequence[int | None] = [-1] * len(detections) if track_ids is None else track_ids
    lines = []
    for (x1, y1, x2, y2), score, track_id in zip(
        detections.box_xyxy.tolist(), detections.score.tolist(), ids, strict=True
    ):
        if track_id is not None:
            lines.append(f"{frame},{track_id},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},{score:.6f},-1,-1,-1")
    return lines
