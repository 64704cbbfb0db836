"""Detection on a video: reading, detection, drawing and writing run in parallel."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cspdet.errors import SourceError
from cspdet.inference.output import DetectionRun
from cspdet.inference.pipeline import BackgroundConsumer, Prefetcher, batched, call_interruptibly, parallel_map
from cspdet.inference.records import FrameResult
from cspdet.inference.result_lines import video_line
from cspdet.inference.sources import Video
from cspdet.inference.tracking import Tracker
from cspdet.inference.video.animation import AnimationReader
from cspdet.inference.video.encoding import EncoderSettings
from cspdet.inference.video.frame import DEFAULT_FPS, Frame, VideoReader
from cspdet.inference.video.live import open_live
from cspdet.inference.video.reader import open_video_file
from cspdet.inference.video.writer import VideoWriter, open_video_writer
from cspdet.io.progress import progress
from cspdet.structures import Detections

log = logging.getLogger("cspdet")

MAX_QUEUE_BYTES = 256 * 2**20  # maximum memory of the frames queued between two stages


class ProcessedFrame(NamedTuple):
    """A frame with its detections and track ids."""

    frame: Frame
    detections: Detections
    track_ids: Sequence[int | None] | None  # one per detection, with tracking


class VideoProcessor:
    """Processes the videos, cameras and streams of a run."""

    def __init__(self, run: DetectionRun):
        self.run = run
        self._other_sizes: set[tuple[Video, tuple[int, int]]] = set()  # of frames, that were reported
        self._counts: Counter[str] = Counter()  # detections of each class in the current video

    def process(self, video: Video) -> None:
        """Detect objects in every frame, and write the annotated video and the result lines.

        Raises:
            SourceError: The video cannot be opened, or none of its frames can be decoded.
        """
        settings, start, frames_before = self.run.settings, time.perf_counter(), self.run.num_frames
        self._counts.clear()
        with self._open_reader(video) as reader:
            frames = iter(reader)
            first = call_interruptibly(lambda: next(frames, None))
            if first is None:
                hint = f", though it declares {reader.info.num_frames}" if reader.info.num_frames else ""
                raise SourceError(reader.error or f"{video}: no frame can be decoded{hint}")
            if not settings.draw:
                self._run_pipeline(reader, chain([first], frames), first.image.nbytes, None)
            else:
                if reader.info.fps is None and not reader.live:
                    log.info("%s: unknown frame rate; using %g frames per second", video, DEFAULT_FPS)
                self._warn_odd_size(video, first.image)
                path = self.run.output_path(video.name, ".mp4")
                with open_video_writer(path, self._encoder_settings(reader)) as writer:
                    self._run_pipeline(reader, chain([first], frames), first.image.nbytes, writer)
            self._log_result(reader)
        size_hw, num_frames = (first.image.shape[0], first.image.shape[1]), self.run.num_frames - frames_before
        seconds = time.perf_counter() - start
        self.run.report_line(video_line(video.name.as_posix(), size_hw, num_frames, seconds, self._counts))

    def _open_reader(self, video: Video) -> VideoReader:
        settings = self.run.settings
        if isinstance(video.address, Path):
            on_cpu = self.run.detector.device.type == "cpu"
            return open_video_file(video, settings.stride, slice_threading=on_cpu)
        return open_live(video, settings.stride, settings.reconnect, settings.max_seconds)

    def _encoder_settings(self, reader: VideoReader) -> EncoderSettings:
        has_audio = isinstance(reader.video.address, Path) and not isinstance(reader, AnimationReader)
        return EncoderSettings(
            reader.info,
            self.run.settings.codec,
            self.run.settings.preset,
            live=reader.live,
            stride=self.run.settings.stride,
            audio=Path(str(reader.video.address)) if has_audio else None,
            start_time_s=reader.start_time_s,
        )

    def _progress(self, reader: VideoReader, frames: Iterable[Frame]) -> Iterable[Frame]:
        """Return the frames up to the time limit; iterating over them shows a progress bar."""
        settings, count = self.run.settings, reader.info.num_frames
        limited_frames = _limit_duration(self.run.timer.time_iter(frames, "waiting"), settings.max_seconds)
        expected = -(-count // settings.stride) if count else None
        return progress(limited_frames, reader.video.name.name, "frame", expected)

    def _run_pipeline(
        self, reader: VideoReader, frames: Iterable[Frame], frame_bytes: int, writer: VideoWriter | None
    ) -> None:
        """Read, detect, draw and write in parallel. Detection uses this thread, or one thread per engine stream."""
        timer, settings, engine = self.run.timer, self.run.settings, self.run.detector.engine
        max_parallel = 1 if reader.live else settings.batch_size
        num_workers = engine.set_num_streams(max_parallel)
        batch_size = max_parallel if num_workers == 1 else 1
        depth = max(2, min(2 * max_parallel, MAX_QUEUE_BYTES // frame_bytes))
        tracker = self._create_tracker(reader)
        with ExitStack() as stages:
            stages.callback(engine.set_num_streams, 1)
            output = self._start_output_stages(stages, reader, writer, depth)
            if not reader.live:  # a live reader has its own thread and always returns the latest frame
                frames = stages.enter_context(Prefetcher(timer.time_iter(frames, "read"), depth))
            batches = batched(self._progress(reader, frames), batch_size)
            results = stages.enter_context(
                closing(parallel_map(batches, partial(self._detect_batch, num_workers), num_workers))
            )
            for batch, batch_detections in results:
                ids = [tracker.update(detections) if tracker else None for detections in batch_detections]
                with timer.measure("waiting", 0):
                    for processed in map(ProcessedFrame, batch, batch_detections, ids):
                        output.put(processed)

    def _start_output_stages(
        self, stages: ExitStack, reader: VideoReader, writer: VideoWriter | None, depth: int
    ) -> BackgroundConsumer[ProcessedFrame]:
        """Start the writing stage, preceded by a drawing stage if there is a `writer`; return the first stage."""
        write = stages.enter_context(BackgroundConsumer(partial(self._write, reader, writer), depth))
        if writer is None:
            return write
        return stages.enter_context(BackgroundConsumer(lambda processed: write.put(self._draw_frame(processed)), depth))

    def _detect_batch(self, num_workers: int, batch: Sequence[Frame]) -> list[Detections]:
        with self.run.timer.measure("detect", len(batch), num_workers):
            return self.run.sliced_detector.predict(self.run.detector, [frame.image for frame in batch])

    def _create_tracker(self, reader: VideoReader) -> Tracker | None:
        settings = self.run.settings
        if settings.track_min_score is None:
            return None
        fps = (reader.info.fps or DEFAULT_FPS) / (1 if reader.live else settings.stride)
        return Tracker(float(fps), settings.track_min_score)

    def _draw_frame(self, processed: ProcessedFrame) -> ProcessedFrame:
        with self.run.timer.measure("draw"):
            caption = self.run.timer.format_line() if self.run.settings.show_speed else ""
            image = self.run.draw(processed.frame.image, processed.detections, processed.track_ids, caption)
            frame = Frame(image, processed.frame.index, processed.frame.time_s, processed.frame.ticks)
            return ProcessedFrame(frame, processed.detections, processed.track_ids)

    def _write(self, reader: VideoReader, writer: VideoWriter | None, processed: ProcessedFrame) -> None:
        frame = processed.frame
        with self.run.timer.measure("write"):
            size_hw = (frame.image.shape[0], frame.image.shape[1])
            if writer is not None:
                writer.write(frame.image, frame.ticks)
                self._warn_other_size(reader.video, frame.index, size_hw, writer.size_hw)
            self.run.record(
                FrameResult(
                    reader.video.source, size_hw, processed.detections, frame.index, frame.time_s, processed.track_ids
                )
            )
        self._counts.update(self.run.detector.class_names[index] for index in processed.detections.class_id.tolist())
        self.run.num_frames += 1
        self.run.timer.frame_done()

    def _warn_other_size(
        self, video: Video, frame_index: int, size_hw: tuple[int, int], written_hw: tuple[int, int]
    ) -> None:
        if size_hw != written_hw and (video, size_hw) not in self._other_sizes:
            self._other_sizes.add((video, size_hw))
            (height, width), (written_height, written_width) = size_hw, written_hw
            message = "%s: the size changes to %dx%d at frame %d; the written video keeps %dx%d, with black borders"
            log.warning(message, video, width, height, frame_index, written_width, written_height)

    def _warn_odd_size(self, video: Video, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        if not (height % 2 or width % 2):
            return
        if self.run.settings.codec == "h264":
            log.info("%s: %dx%d is odd; written as H.264 4:4:4, which some devices do not play", video, width, height)
        else:
            even = f"{width // 2 * 2}x{height // 2 * 2}"
            log.warning("%s: %dx%d; mp4v needs even sizes; the output is cropped to %s", video, width, height, even)

    def _log_result(self, reader: VideoReader) -> None:
        declared, decoded, video = reader.info.num_frames, reader.decoded, reader.video
        self.run.num_dropped += reader.dropped
        if reader.error is not None:
            self.run.problems.append(reader.error)
        elif declared and decoded != declared and self.run.settings.max_seconds is None:
            log.warning("%s: declares %d frames, but %d could be decoded and written", video, declared, decoded)
        if reader.dropped:
            log.info("%s: %d frames were dropped while the network was busy", video, reader.dropped)


def _limit_duration(frames: Iterable[Frame], max_seconds: float | None) -> Iterator[Frame]:
    """Yield the frames before `max_seconds`; the first frame is always yielded."""
    for frame in frames:
        if max_seconds is not None and frame.index > 0 and frame.time_s >= max_seconds:
            return
        yield frame
