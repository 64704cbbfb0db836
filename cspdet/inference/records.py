"""Result files of `cspdet detect`: detections.jsonl and, if requested, a MOTChallenge file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from cspdet.errors import UserError
from cspdet.inference.interop import to_mot_lines
from cspdet.io.line_file import LineFile
from cspdet.structures import Detections


class FrameResult(NamedTuple):
    """Detections of an image or of a video frame."""

    source: str
    size_hw: tuple[int, int]  # height and width of the image
    detections: Detections  # in image pixels
    frame: int | None = None  # index in the video, from 0
    time_s: float | None = None  # seconds since the first frame
    track_ids: Sequence[int | None] | None = None  # one per detection, with tracking


class DetectionRecord(TypedDict, total=False):
    """A detection in a line of detections.jsonl."""

    box_xyxy: list[float]
    score: float
    class_id: int  # index into the class names
    class_name: str
    category_id: int  # id of the class in the annotations
    track_id: int | None


class FrameRecord(TypedDict):
    """A line of detections.jsonl."""

    source: str
    frame: int | None
    time_s: float | None
    width: int
    height: int
    detections: list[DetectionRecord]


class JsonlWriter:
    """Writes and flushes one line per image or frame; `close` replaces the files of an earlier run.

    Args:
        path: The .jsonl file.
        class_names: Names of the classes, by class index.
        category_ids: Category ids of the annotations, by class index.
        mot_path: MOTChallenge file to write as well; None: no such file.
    """

    def __init__(
        self, path: Path, class_names: Sequence[str], category_ids: Sequence[int], mot_path: Path | None = None
    ):
        self.num_lines = self.num_detections = 0
        self._class_names, self._category_ids = class_names, category_ids
        self._jsonl_file = LineFile(path)
        self._mot_file = None if mot_path is None else LineFile(mot_path)

    def open(self) -> None:
        """Open and lock the files; raise UserError if another run writes one. Without this call, `add` opens them."""
        self._jsonl_file.open()
        try:
            if self._mot_file is not None:
                self._mot_file.open()
        except UserError:
            self._jsonl_file.close(failed=True)
            raise

    def close(self, *, failed: bool = False) -> None:
        """Close the files, which replace the files of an earlier run unless this run `failed`."""
        self._jsonl_file.close(failed=failed)
        if self._mot_file is not None:
            self._mot_file.close(failed=failed)

    def add(self, result: FrameResult) -> None:
        """Write the lines of one image or frame; raise UserError if the disk is full."""
        self._jsonl_file.write([json.dumps(self._to_record(result), ensure_ascii=False)])
        if self._mot_file is not None:
            frame_index = self.num_lines if result.frame is None else result.frame
            self._mot_file.write(to_mot_lines(frame_index + 1, result.detections, result.track_ids))
        self.num_lines += 1
        self.num_detections += len(result.detections)

    def read(self) -> list[FrameRecord]:
        """Return the lines so far."""
        return read_records(self._jsonl_file.current_path) if self.num_lines else []

    def _to_record(self, result: FrameResult) -> FrameRecord:
        return {
            "source": result.source,
            "frame": result.frame,
            "time_s": None if result.time_s is None else round(result.time_s, 6),
            "width": result.size_hw[1],
            "height": result.size_hw[0],
            "detections": detection_records(result.detections, self._class_names, self._category_ids, result.track_ids),
        }


def detection_records(
    detections: Detections,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    track_ids: Sequence[int | None] | None = None,
) -> list[DetectionRecord]:
    """Convert detections to plain values, with rounded boxes and scores.

    Args:
        detections: Detections in image pixels.
        class_names: Names of the classes, by class index.
        category_ids: Category ids of the annotations, by class index.
        track_ids: Track id of each detection, or None for a detection without a track. None: the records have no track
            ids.
    """
    columns = (
        detections.box_xyxy.cpu().double().numpy().round(3).tolist(),
        detections.score.tolist(),
        detections.class_id.tolist(),
    )
    records: list[DetectionRecord] = [
        {
            "box_xyxy": box,
            "score": round(score, 6),
            "class_id": i,
            "class_name": class_names[i],
            "category_id": category_ids[i],
        }
        for box, score, i in zip(*columns, strict=True)
    ]
    if track_ids is not None:
        for record, track_id in zip(records, track_ids, strict=True):
            record["track_id"] = track_id
    return records


def read_records(path: Path) -> list[FrameRecord]:
    """Read all lines of a detections.jsonl file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
