"""The lines that `detect` leaves: detections.jsonl, and on request a MOTChallenge file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TextIO, TypedDict

from cspdet.errors import UserError
from cspdet.inference.interop import mot_lines
from cspdet.structures import Detections


class Found(NamedTuple):
    """What is on a picture or frame, and where that came from."""

    source: str
    size_hw: tuple[int, int]  # of the picture
    detections: Detections  # in its pixels
    frame: int | None = None  # number in the video, from 0
    time_s: float | None = None
    track_ids: Sequence[int | None] | None = None  # one a detection, when tracked


class Box(TypedDict, total=False):
    """A detection in a line."""

    box_xyxy: list[float]
    score: float
    class_id: int
    class_name: str
    track_id: int | None


class Record(TypedDict):
    """A line of detections.jsonl."""

    source: str
    frame: int | None
    time_s: float | None
    width: int
    height: int
    detections: list[Box]


class Records:
    """Writes a line a picture or frame, each flushed once written. A context manager."""

    def __init__(self, path: Path, class_names: Sequence[str], category_ids: Sequence[int], mot: Path | None = None):
        """Raises UserError where a file cannot be written."""
        self.path = path
        self.lines = self.detections = 0
        self._names, self._ids = class_names, category_ids
        self._files: list[TextIO] = []
        self._lines = self._open(path)
        self._mot = None if mot is None else self._open(mot)

    def _open(self, path: Path) -> TextIO:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files.append(path.open("w", encoding="utf-8"))
        except OSError as error:
            self.close()
            raise UserError(f"{path}: cannot be written to: {error.strerror}") from None
        return self._files[-1]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, found: Found) -> None:
        """Write the lines of one picture or frame. Raises UserError when the disk is full."""
        try:
            self._write(self._lines, [json.dumps(self._record(found), ensure_ascii=False)])
            if self._mot is not None:
                number = self.lines if found.frame is None else found.frame
                self._write(self._mot, mot_lines(number + 1, found.detections, found.track_ids))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written to: {error.strerror}") from None
        self.lines += 1
        self.detections += len(found.detections)

    @staticmethod
    def _write(file: TextIO, lines: Sequence[str]) -> None:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()

    def _record(self, found: Found) -> Record:
        columns = (
            found.detections.box_xyxy.double().numpy().round(3).tolist(),
            found.detections.score.tolist(),
            found.detections.class_id.tolist(),
        )
        boxes: list[Box] = [
            {"box_xyxy": box, "score": round(score, 6), "class_id": self._ids[i], "class_name": self._names[i]}
            for box, score, i in zip(*columns, strict=True)
        ]
        if found.track_ids is not None:
            for entry, number in zip(boxes, found.track_ids, strict=True):
                entry["track_id"] = number
        return {
            "source": found.source,
            "frame": found.frame,
            "time_s": None if found.time_s is None else round(found.time_s, 6),
            "width": found.size_hw[1],
            "height": found.size_hw[0],
            "detections": boxes,
        }


def read_records(path: Path) -> list[Record]:
    """The lines of a detections.jsonl."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
