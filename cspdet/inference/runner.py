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

from cspdet.datasets.image_io import read_image
from cspdet.errors import DataError, SourceError, UserError
from cspdet.inference.draw import draw_caption, draw_detections
from cspdet.inference.pipeline import BackgroundConsumer, Prefetcher, parallel_map
from cspdet.inference.predictor import Predictor
from cspdet.inference.records import FrameResult, JsonlWriter
from cspdet.inference.slicing import SlicedDetector
from cspdet.inference.sources import ImageFile, MediaSource, Video
from cspdet.inference.stopwatch import Stopwatch
from cspdet.inference.tracking import Tracker
from cspdet.inference.video.live import open_live
from cspdet.inference.video.reader import DEFAULT_FPS, Frame, VideoReader, open_video_file
from cspdet.inference.video.writer import Codec, EncoderSettings, VideoWriter, open_video_writer
from cspdet.io.atomic import write_bytes
from cspdet.io.progress import progress
from cspdet.structures import Detections

log = logging.getLogger("cspdet")

ItemT = TypeVar("ItemT")

STAGES = ("read", "detect", "draw", "write", "waiting")  # waiting: what the network lost because of the others
MAX_QUEUE_BYTES = 256 * 2**20  # of frames between two stages


@dataclass(frozen=True)
class DetectionSettings:
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
    track_min_score: float | None = None  # follow objects of at least this score from frame to frame
    mot_path: Path | None = None  # a MOTChallenge file


class PendingImage(NamedTuple):
    """A picture that was read, and what is on it once that is known."""

    source: ImageFile
    image: np.ndarray  # (H, W, 3) uint8 RGB
    detections: Detections | None = None


class ProcessedFrame(NamedTuple):
    """A frame with what is on it."""

    frame: Frame
    detections: Detections
    track_ids: Sequence[int | None] | None


class DetectionRunner:
    """Works off sources one after the other; what fails is noted in `problems`, and the others go on.

    A context manager: `detections.jsonl` in `output` is open meanwhile; each line is flushed once written.
    """

    def __init__(self, detector: Predictor, output: Path, sliced_detector: SlicedDetector, settings: DetectionSettings):
        self.detector, self.output, self.sliced_detector, self.settings = detector, output, sliced_detector, settings
        self.problems: list[str] = []
        self.num_images = self.num_frames = self.num_dropped = 0
        self.timer = Stopwatch(STAGES)
        self._used_names: set[str] = {"detections.jsonl"}
        self.jsonl_writer = JsonlWriter(
            output / "detections.jsonl", detector.class_names, detector.category_ids, mot_path=settings.mot_path
        )

    def __enter__(self) -> DetectionRunner:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.jsonl_writer.close()

    def run(self, sources: Sequence[MediaSource]) -> None:
        """Pictures first, in batches; then videos, cameras and streams."""
        self._check_output_dir(sources)
        images = [source for source in sources if isinstance(source, ImageFile)]
        if images:
            self._process_images(images)
        for source in sources:
            if isinstance(source, Video):
                try:
                    self._process_video(source)
                except SourceError as error:
                    self.problems += error.problems

    def _check_output_dir(self, sources: Sequence[MediaSource]) -> None:
        files = [s.path if isinstance(s, ImageFile) else s.address for s in sources]
        folders = {path.parent.resolve() for path in files if isinstance(path, Path)}
        if self.output.resolve() in folders:
            raise UserError(f"--output {self.output}: expected another folder than that of the source, which is kept")

    def _output_path(self, name: Path, suffix: str) -> Path:
        """Where the annotated copy goes: the same name, with a number when two sources would share it."""
        number = 1
        while True:
            target = name.with_name(f"{name.stem}{f'-{number}' if number > 1 else ''}{suffix}")
            if target.as_posix().lower() not in self._used_names:
                self._used_names.add(target.as_posix().lower())
                return self.output / target
            number += 1

    def _process_images(self, images: Sequence[ImageFile]) -> None:
        batch_size = self.settings.batch_size
        read = self.timer.time_iter(map(_read_image, images), "read")
        with BackgroundConsumer(self._finish_image, batch_size) as finish, Prefetcher(read, batch_size) as ahead:
            waited = self.timer.time_iter(ahead, "waiting")
            for batch in batched(progress(waited, "detecting", "picture", len(images)), batch_size):
                self.problems += [problem for item in batch if isinstance(item, DataError) for problem in item.problems]
                good = [item for item in batch if isinstance(item, PendingImage)]
                with self.timer.measure("detect", len(good)):
                    found = self.sliced_detector.predict(self.detector, [item.image for item in good])
                with self.timer.measure("waiting", 0):
                    for item, detections in zip(good, found, strict=True):
                        finish.put(item._replace(detections=detections))

    def _finish_image(self, pending: PendingImage) -> None:
        source, image, detections = pending
        assert detections is not None
        if self.settings.draw:
            with self.timer.measure("draw"):
                drawn = self._draw(image, detections, None)
            with self.timer.measure("write"):
                suffix = source.path.suffix if cv2.haveImageWriter(source.path.name) else ".png"
                ok, data = cv2.imencode(suffix, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
                if not ok:
                    raise UserError(f"{source}: {image.shape[1]}x{image.shape[0]} pixels cannot be written as {suffix}")
                write_bytes(self._output_path(source.name, suffix), data.tobytes())
        self.jsonl_writer.add(FrameResult(str(source), (image.shape[0], image.shape[1]), detections))
        self.num_images += 1
        self.timer.frame_done()

    def _process_video(self, video: Video) -> None:
        with self._open_reader(video) as reader:
            frames = iter(reader)
            first = next(frames, None)
            if first is None:
                hint = f", though it declares {reader.info.num_frames}" if reader.info.num_frames else ""
                raise SourceError(reader.error or f"{video}: no frame of it can be decoded{hint}")
            if not self.settings.draw:
                self._run_video_pipeline(reader, first, frames, None)
            else:
                if reader.info.fps is None and not reader.live:
                    log.info("%s: its frame rate is unknown and taken for %g a second", video, DEFAULT_FPS)
                self._warn_odd_size(video, first.image)
                with open_video_writer(self._output_path(video.name, ".mp4"), self._encoder_settings(reader)) as writer:
                    self._run_video_pipeline(reader, first, frames, writer)
            self._log_video_result(reader)

    def _open_reader(self, video: Video) -> VideoReader:
        if isinstance(video.address, Path):
            on_cpu = self.detector.device.type == "cpu"
            return open_video_file(video, self.settings.stride, slice_threading=on_cpu)
        return open_live(video, self.settings.stride, self.settings.reconnect, self.settings.max_seconds)

    def _encoder_settings(self, reader: VideoReader) -> EncoderSettings:
        return EncoderSettings(
            reader.info,
            self.settings.codec,
            self.settings.preset,
            live=reader.live,
            stride=self.settings.stride,
            audio=reader.video.address if isinstance(reader.video.address, Path) else None,
            start_time_s=reader.start_time_s,
        )

    def _run_video_pipeline(
        self, reader: VideoReader, first: Frame, rest: Iterator[Frame], writer: VideoWriter | None
    ) -> None:
        """Reading, the network, drawing and writing at the same time, each in threads of its own or in this one."""
        at_once = 1 if reader.live else self.settings.batch_size
        num_workers = self.detector.engine.set_num_streams(at_once)
        size = at_once if num_workers == 1 else 1
        depth = max(2, min(2 * at_once, MAX_QUEUE_BYTES // first.image.nbytes))
        tracker = self._create_tracker(reader)
        with ExitStack() as stages:
            stages.callback(self.detector.engine.set_num_streams, 1)
            write = stages.enter_context(BackgroundConsumer(partial(self._write, reader, writer), depth))
            draw = (
                stages.enter_context(
                    BackgroundConsumer(lambda processed: write.put(self._draw_frame(processed)), depth)
                )
                if writer
                else write
            )
            frames: Iterable[Frame] = chain([first], rest)
            if not reader.live:  # a live reader has a thread of its own, and nothing may wait behind the newest frame
                frames = stages.enter_context(Prefetcher(self.timer.time_iter(frames, "read"), depth))
            limited_frames = _limit_duration(self.timer.time_iter(frames, "waiting"), self.settings.max_seconds)
            count = reader.info.num_frames
            expected = -(-count // self.settings.stride) if count else None
            batches = batched(progress(limited_frames, reader.video.name.name, "frame", expected), size)
            results = stages.enter_context(
                closing(parallel_map(batches, partial(self._detect_batch, num_workers), num_workers))
            )
            for batch, found in results:
                ids = [tracker.update(detections) if tracker else None for detections in found]
                with self.timer.measure("waiting", 0):
                    for processed in map(ProcessedFrame, batch, found, ids):
                        draw.put(processed)

    def _detect_batch(self, num_workers: int, batch: Sequence[Frame]) -> list[Detections]:
        with self.timer.measure("detect", len(batch), num_workers):
            return self.sliced_detector.predict(self.detector, [frame.image for frame in batch])

    def _create_tracker(self, reader: VideoReader) -> Tracker | None:
        if self.settings.track_min_score is None:
            return None
        fps = (reader.info.fps or DEFAULT_FPS) / (1 if reader.live else self.settings.stride)
        return Tracker(float(fps), self.settings.track_min_score)

    def _draw_frame(self, processed: ProcessedFrame) -> ProcessedFrame:
        with self.timer.measure("draw"):
            image = self._draw(processed.frame.image, processed.detections, processed.track_ids)
            if self.settings.show_speed:
                draw_caption(image, self.timer.format_line())
            frame = Frame(image, processed.frame.index, processed.frame.time_s, processed.frame.ticks)
            return ProcessedFrame(frame, processed.detections, processed.track_ids)

    def _write(self, reader: VideoReader, writer: VideoWriter | None, processed: ProcessedFrame) -> None:
        frame = processed.frame
        with self.timer.measure("write"):
            if writer is not None:
                writer.write(frame.image, frame.ticks)
            size_hw = (frame.image.shape[0], frame.image.shape[1])
            source = str(reader.video.address)
            self.jsonl_writer.add(
                FrameResult(source, size_hw, processed.detections, frame.index, frame.time_s, processed.track_ids)
            )
        self.num_frames += 1
        self.timer.frame_done()

    def _draw(self, image: np.ndarray, detections: Detections, track_ids: Sequence[int | None] | None) -> np.ndarray:
        return draw_detections(
            image,
            detections,
            self.detector.class_names,
            width=self.settings.line_width,
            hide_labels=self.settings.hide_labels,
            track_ids=track_ids,
            in_place=True,  # nobody else looks at a picture once it was searched
        )

    def _warn_odd_size(self, video: Video, image: np.ndarray) -> None:
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

    def _log_video_result(self, reader: VideoReader) -> None:
        declared, decoded, video = reader.info.num_frames, reader.decoded, reader.video
        self.num_dropped += reader.dropped
        if reader.error is not None:
            self.problems.append(reader.error)
        elif declared and decoded != declared and self.settings.max_seconds is None:
            message = "%s: declares %d frames, but %d could be decoded; the output holds these"
            log.warning(message, video, declared, decoded)
        if reader.dropped:
            message = "%s: %d frames came while the network was busy, and were dropped"
            log.info(message, video, reader.dropped)


def _read_image(source: ImageFile) -> PendingImage | DataError:
    try:
        return PendingImage(source, read_image(source.path))
    except DataError as error:
        return error


def batched(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """Yield the items in lists of `size`, the last one shorter where they do not divide."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _limit_duration(frames: Iterable[Frame], max_seconds: float | None) -> Iterator[Frame]:
    """The frames before `max_seconds`; the first always is one."""
    for frame in frames:
        if max_seconds is not None and frame.index > 0 and frame.time_s >= max_seconds:
            return
        yield frame
