"""Detect on sources, and leave the annotated copies and a line of JSON a picture or frame in a folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from cspdet.datasets.image_io import read_picture
from cspdet.errors import DataError, SourceError, UserError
from cspdet.inference.draw import draw_caption, draw_detections
from cspdet.inference.pipeline import Ahead, Behind, in_lanes
from cspdet.inference.predictor import Predictor
from cspdet.inference.records import Found, Records
from cspdet.inference.slicing import Search
from cspdet.inference.sources import PictureFile, Source, Video
from cspdet.inference.stopwatch import Stopwatch
from cspdet.inference.tracking import Tracker
from cspdet.inference.video.live import open_live
from cspdet.inference.video.reader import USUAL_RATE, Frame, VideoReader, open_file
from cspdet.inference.video.writer import Codec, Output, VideoWriter, video_writer
from cspdet.io.atomic import write_bytes
from cspdet.io.progress import progress
from cspdet.structures import Detections

log = logging.getLogger("cspdet")

Item = TypeVar("Item")

STAGES = ("read", "detect", "draw", "write", "waiting")  # waiting: what the network lost because of the others
QUEUE_BYTES = 256 * 2**20  # of frames between two stages


@dataclass(frozen=True)
class Settings:
    """How sources are worked off and what is written."""

    batch_size: int = 8  # pictures or frames of a file a pass, or at once; live it is always 1
    max_seconds: float | None = None  # of each video, camera or stream
    stride: int = 1  # every so-manieth frame
    reconnect: int = 5  # tries in a row to connect again to a lost camera or stream
    draw: bool = True  # False: no pictures and videos, the records alone
    codec: Codec = "mp4v"
    preset: str = "ultrafast"  # of x264
    line_width: int | None = None  # pixels; None goes by the picture
    hide_labels: bool = False
    show_speed: bool = False  # on every frame
    track_from: float | None = None  # follow objects of at least this score from frame to frame
    mot: Path | None = None  # a MOTChallenge file


class Picture(NamedTuple):
    """A picture that was read, and what is on it once that is known."""

    source: PictureFile
    image: np.ndarray  # (H, W, 3) uint8 RGB
    detections: Detections | None = None


class Seen(NamedTuple):
    """A frame with what is on it."""

    frame: Frame
    detections: Detections
    track_ids: Sequence[int | None] | None


class Annotator:
    """Works off sources one after the other; what fails is noted in `problems`, and the others go on.

    A context manager: `detections.jsonl` in `output` is open meanwhile; each line is flushed once written.
    """

    def __init__(self, detector: Predictor, output: Path, search: Search, settings: Settings):
        self.detector, self.output, self.search, self.settings = detector, output, search, settings
        self.problems: list[str] = []
        self.pictures = self.frames = self.dropped = 0
        self.watch = Stopwatch(STAGES)
        self._taken: set[str] = {"detections.jsonl"}
        self.records = Records(
            output / "detections.jsonl", detector.class_names, detector.category_ids, mot=settings.mot
        )

    def __enter__(self) -> Annotator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.records.close()

    def annotate(self, sources: Sequence[Source]) -> None:
        """Pictures first, in batches; then videos, cameras and streams."""
        self._refuse_to_overwrite(sources)
        pictures = [source for source in sources if isinstance(source, PictureFile)]
        if pictures:
            self._annotate_pictures(pictures)
        for source in sources:
            if isinstance(source, Video):
                try:
                    self._annotate_video(source)
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

    def _annotate_pictures(self, pictures: Sequence[PictureFile]) -> None:
        batch_size = self.settings.batch_size
        read = self.watch.timed(map(_read, pictures), "read")
        with Behind(self._finish_picture, batch_size) as finish, Ahead(read, batch_size) as ahead:
            waited = self.watch.timed(ahead, "waiting")
            for batch in _pieces(progress(waited, "detecting", "picture", len(pictures)), batch_size):
                self.problems += [problem for item in batch if isinstance(item, DataError) for problem in item.problems]
                good = [item for item in batch if isinstance(item, Picture)]
                with self.watch.running("detect", len(good)):
                    found = self.search.find(self.detector, [item.image for item in good])
                with self.watch.running("waiting", 0):
                    for item, detections in zip(good, found, strict=True):
                        finish.put(item._replace(detections=detections))

    def _finish_picture(self, picture: Picture) -> None:
        source, image, detections = picture
        assert detections is not None
        if self.settings.draw:
            with self.watch.running("draw"):
                drawn = self._draw(image, detections, None)
            with self.watch.running("write"):
                suffix = source.path.suffix if cv2.haveImageWriter(source.path.name) else ".png"
                ok, data = cv2.imencode(suffix, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
                if not ok:
                    raise UserError(f"{source}: {image.shape[1]}x{image.shape[0]} pixels cannot be written as {suffix}")
                write_bytes(self._target(source.name, suffix), data.tobytes())
        self.records.add(Found(str(source), (image.shape[0], image.shape[1]), detections))
        self.pictures += 1
        self.watch.frame_done()

    def _annotate_video(self, video: Video) -> None:
        with self._open(video) as reader:
            frames = iter(reader)
            first = next(frames, None)
            if first is None:
                said = f", though it declares {reader.facts.declared}" if reader.facts.declared else ""
                raise SourceError(reader.lost or f"{video}: no frame of it can be decoded{said}")
            if not self.settings.draw:
                self._run(reader, first, frames, None)
            else:
                if reader.facts.rate is None and not reader.live:
                    log.info("%s: its frame rate is unknown and taken for %g a second", video, USUAL_RATE)
                self._tell_of_odd_size(video, first.image)
                with video_writer(self._target(video.name, ".mp4"), self._output(reader)) as writer:
                    self._run(reader, first, frames, writer)
            self._tell_of_the_end(reader)

    def _open(self, video: Video) -> VideoReader:
        if isinstance(video.address, Path):
            on_cpu = self.detector.device.type == "cpu"
            return open_file(video, self.settings.stride, beside_network=on_cpu)
        return open_live(video, self.settings.stride, self.settings.reconnect, self.settings.max_seconds)

    def _output(self, reader: VideoReader) -> Output:
        return Output(
            reader.facts,
            self.settings.codec,
            self.settings.preset,
            live=reader.live,
            stride=self.settings.stride,
            audio=reader.video.address if isinstance(reader.video.address, Path) else None,
            origin=reader.origin,
        )

    def _run(self, reader: VideoReader, first: Frame, rest: Iterator[Frame], writer: VideoWriter | None) -> None:
        """Reading, the network, drawing and writing at the same time, each in threads of its own or in this one."""
        at_once = 1 if reader.live else self.settings.batch_size
        lanes = self.detector.engine.widen(at_once)
        size = at_once if lanes == 1 else 1
        depth = max(2, min(2 * at_once, QUEUE_BYTES // first.image.nbytes))
        tracker = self._tracker(reader)
        with ExitStack() as stages:
            stages.callback(self.detector.engine.widen, 1)
            write = stages.enter_context(Behind(partial(self._write, reader, writer), depth))
            draw = stages.enter_context(Behind(lambda seen: write.put(self._drawn(seen)), depth)) if writer else write
            frames: Iterable[Frame] = chain([first], rest)
            if not reader.live:  # a live reader has a thread of its own, and nothing may wait behind the newest frame
                frames = stages.enter_context(Ahead(self.watch.timed(frames, "read"), depth))
            wanted = _until(self.watch.timed(frames, "waiting"), self.settings.max_seconds)
            count = reader.facts.declared
            expected = -(-count // self.settings.stride) if count else None
            batches = _pieces(progress(wanted, reader.video.name.name, "frame", expected), size)
            results = stages.enter_context(closing(in_lanes(batches, partial(self._find, lanes), lanes)))
            for batch, found in results:
                ids = [tracker.update(detections) if tracker else None for detections in found]
                with self.watch.running("waiting", 0):
                    for seen in map(Seen, batch, found, ids):
                        draw.put(seen)

    def _find(self, lanes: int, batch: Sequence[Frame]) -> list[Detections]:
        with self.watch.running("detect", len(batch), lanes):
            return self.search.find(self.detector, [frame.image for frame in batch])

    def _tracker(self, reader: VideoReader) -> Tracker | None:
        if self.settings.track_from is None:
            return None
        rate = (reader.facts.rate or USUAL_RATE) / (1 if reader.live else self.settings.stride)
        return Tracker(float(rate), self.settings.track_from)

    def _drawn(self, seen: Seen) -> Seen:
        with self.watch.running("draw"):
            image = self._draw(seen.frame.image, seen.detections, seen.track_ids)
            if self.settings.show_speed:
                draw_caption(image, self.watch.line())
            frame = Frame(image, seen.frame.number, seen.frame.time_s, seen.frame.ticks)
            return Seen(frame, seen.detections, seen.track_ids)

    def _write(self, reader: VideoReader, writer: VideoWriter | None, seen: Seen) -> None:
        frame = seen.frame
        with self.watch.running("write"):
            if writer is not None:
                writer.write(frame.image, frame.ticks)
            size_hw = (frame.image.shape[0], frame.image.shape[1])
            source = str(reader.video.address)
            self.records.add(Found(source, size_hw, seen.detections, frame.number, frame.time_s, seen.track_ids))
        self.frames += 1
        self.watch.frame_done()

    def _draw(self, image: np.ndarray, found: Detections, track_ids: Sequence[int | None] | None) -> np.ndarray:
        return draw_detections(
            image,
            found,
            self.detector.class_names,
            width=self.settings.line_width,
            hide_labels=self.settings.hide_labels,
            track_ids=track_ids,
            in_place=True,  # nobody else looks at a picture once it was searched
        )

    def _tell_of_odd_size(self, video: Video, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        if not (height % 2 or width % 2):
            return
        if self.settings.codec == "h264":
            log.info(
                "%s: %dx%d is odd; as H.264 with 4:4:4 color, which some devices do not play", video, width, height
            )
        else:
            even = f"{width // 2 * 2}x{height // 2 * 2}"
            log.warning("%s: %dx%d; mp4v has even sizes, so the output is cut to %s", video, width, height, even)

    def _tell_of_the_end(self, reader: VideoReader) -> None:
        declared, decoded, video = reader.facts.declared, reader.decoded, reader.video
        self.dropped += reader.dropped
        if reader.lost is not None:
            self.problems.append(reader.lost)
        elif declared and decoded != declared and self.settings.max_seconds is None:
            told = "%s: declares %d frames, but %d could be decoded; the output holds these"
            log.warning(told, video, declared, decoded)
        if reader.dropped:
            told = "%s: %d frames came while the network was busy, and were dropped"
            log.info(told, video, reader.dropped)


def _read(source: PictureFile) -> Picture | DataError:
    try:
        return Picture(source, read_picture(source.path))
    except DataError as error:
        return error


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
