"""Detect on sources, and leave the annotated copies and a line of JSON a picture or frame in a folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import cv2
import numpy as np

from cspdet.atomic import write_bytes
from cspdet.datasets.pictures import read_picture
from cspdet.errors import DataError, SourceError, UserError
from cspdet.inference.draw import draw_detections
from cspdet.inference.predictor import Predictor
from cspdet.inference.sources import USUAL_RATE, Frame, PictureFile, Source, Video, VideoReader
from cspdet.inference.video_writer import VideoWriter, video_writer
from cspdet.progress import progress
from cspdet.types import Detections

log = logging.getLogger("cspdet")

Record = dict[str, Any]  # a line of detections.jsonl
Item = TypeVar("Item")


class Annotator:
    """Works off sources one after the other; what fails is noted in `problems`, and the others go on.

    A context manager: `detections.jsonl` in `output` is open meanwhile; each line is flushed once written.
    """

    def __init__(self, detector: Predictor, output: Path, *, batch_size: int, keep_records: bool):
        self.detector, self.output, self.batch_size = detector, output, batch_size
        self.records: list[Record] | None = [] if keep_records else None
        self.problems: list[str] = []
        self.pictures = self.frames = self.detections = 0
        self._taken: set[str] = {"detections.jsonl"}
        try:
            output.mkdir(parents=True, exist_ok=True)
            self._lines = (output / "detections.jsonl").open("w", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{output}: cannot be written to: {error.strerror}") from None

    def __enter__(self) -> Annotator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()

    def annotate(self, sources: Sequence[Source], max_seconds: float | None) -> None:
        """Pictures first, in batches; then videos, cameras and streams, each up to `max_seconds` of it."""
        self._refuse_to_overwrite(sources)
        pictures = [source for source in sources if isinstance(source, PictureFile)]
        for batch in _pieces(progress(pictures, "detecting", "picture", len(pictures)), self.batch_size):
            self._annotate_pictures(batch)
        for source in sources:
            if isinstance(source, Video):
                try:
                    self._annotate_video(source, max_seconds)
                except SourceError as error:
                    self.problems += error.problems

    def _refuse_to_overwrite(self, sources: Sequence[Source]) -> None:
        files = [s.path if isinstance(s, PictureFile) else s.address for s in sources]
        folders = {path.parent.resolve() for path in files if isinstance(path, Path)}
        if self.output.resolve() in folders:
            raise UserError(f"--output {self.output}: expected another folder than that of the source, which is kept")

    def _target(self, name: Path, suffix: str) -> Path:
        """Where the annotated copy goes: the same name, with a number when two sources would share it."""
        number = 1
        while True:
            target = name.with_name(f"{name.stem}{f'-{number}' if number > 1 else ''}{suffix}")
            if target.as_posix().lower() not in self._taken:
                self._taken.add(target.as_posix().lower())
                return self.output / target
            number += 1

    def _annotate_pictures(self, batch: Sequence[PictureFile]) -> None:
        read: list[tuple[PictureFile, np.ndarray]] = []
        for source in batch:
            try:
                read.append((source, read_picture(source.path)))
            except DataError as error:
                self.problems += error.problems
        found = self.detector.predict([image for _, image in read])
        for (source, image), detections in zip(read, found, strict=True):
            suffix = source.path.suffix if cv2.haveImageWriter(source.path.name) else ".png"
            ok, data = cv2.imencode(suffix, cv2.cvtColor(self._draw(image, detections), cv2.COLOR_RGB2BGR))
            if not ok:
                raise UserError(f"{source}: {image.shape[1]}x{image.shape[0]} pixels cannot be written as {suffix}")
            write_bytes(self._target(source.name, suffix), data.tobytes())
            self.pictures += 1
            self._record(str(source), image, detections, None)

    def _annotate_video(self, video: Video, max_seconds: float | None) -> None:
        with VideoReader(video) as reader:
            frames = iter(reader)
            first = next(frames, None)
            if first is None:
                said = f", though it declares {reader.declared}" if reader.declared else ""
                raise SourceError(f"{video}: no frame of it can be decoded{said}")
            if reader.rate is None:
                log.info("%s: its frame rate is unknown; the output has %g frames a second", video, USUAL_RATE)
            wanted = _until(chain([first], frames), max_seconds)
            told = progress(wanted, video.name.name, "frame", reader.declared)
            with video_writer(self._target(video.name, ".mp4"), reader.rate or USUAL_RATE) as writer:
                for batch in _pieces(told, 1 if reader.live else self.batch_size):
                    self._annotate_frames(batch, reader, writer)
            if reader.declared and reader.decoded < reader.declared and max_seconds is None:
                log.warning(
                    "%s: declares %d frames, of which %d could be decoded; the output holds these",
                    video,
                    reader.declared,
                    reader.decoded,
                )
            self._note_odd_size(video, first.image)

    def _annotate_frames(self, batch: Sequence[Frame], reader: VideoReader, writer: VideoWriter) -> None:
        found = self.detector.predict([frame.image for frame in batch])
        for frame, detections in zip(batch, found, strict=True):
            drawn = self._draw(frame.image, detections)
            # Live, a frame stays until the next one: the output plays as long as the recording took.
            due = round(frame.time_s * writer.rate) + 1 - writer.written if reader.live else 1
            for _ in range(max(1, due)):
                writer.write(drawn)
            self.frames += 1
            self._record(str(reader.video.address), frame.image, detections, frame)

    def _note_odd_size(self, video: Video, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            even = f"{width // 2 * 2}x{height // 2 * 2}"
            log.warning("%s: %dx%d; mp4 has even sizes, so the output is cut to %s", video, width, height, even)

    def _draw(self, image: np.ndarray, detections: Detections) -> np.ndarray:
        return draw_detections(image, detections, self.detector.class_names)

    def _record(self, source: str, image: np.ndarray, found: Detections, frame: Frame | None) -> None:
        names, ids = self.detector.class_names, self.detector.category_ids
        columns = (
            found.box_xyxy.double().numpy().round(3).tolist(),
            found.score.tolist(),
            found.class_id.tolist(),
        )
        record: Record = {
            "source": source,
            "frame": None if frame is None else frame.number,
            "time_s": None if frame is None else round(frame.time_s, 6),
            "width": image.shape[1],
            "height": image.shape[0],
            "detections": [
                {"box_xyxy": box, "score": round(score, 6), "class_id": ids[i], "class_name": names[i]}
                for box, score, i in zip(*columns, strict=True)
            ],
        }
        self.detections += len(found)
        self._lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._lines.flush()
        if self.records is not None:
            self.records.append(record)


def _pieces(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece


def _until(frames: Iterable[Frame], max_seconds: float | None) -> Iterator[Frame]:
    """The frames before `max_seconds`; the first always is one."""
    for frame in frames:
        if max_seconds is not None and frame.number > 0 and frame.time_s >= max_seconds:
            return
        yield frame
