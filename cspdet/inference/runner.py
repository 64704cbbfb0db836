"""Run a detector on sources; write annotated copies, and one line of JSON per image or frame."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

import cv2
import numpy as np

from cspdet.datasets.image_io import read_image
from cspdet.errors import DataError, SourceError, UnwritableFileError
from cspdet.inference.marks import mark_image
from cspdet.inference.output import DetectionRun, copy_suffix
from cspdet.inference.pipeline import BackgroundConsumer, Prefetcher, batched
from cspdet.inference.records import FrameResult
from cspdet.inference.result_lines import image_line
from cspdet.inference.sources import ImageFile, MediaSource, Video
from cspdet.inference.video.animation import is_animated_image
from cspdet.inference.video.processor import VideoProcessor
from cspdet.io.atomic import write_bytes
from cspdet.io.progress import progress
from cspdet.structures import Detections


class PendingImage(NamedTuple):
    """An image in the pipeline; `detections` is None before detection."""

    source: ImageFile
    image: np.ndarray  # (H, W, 3) uint8 RGB
    detections: Detections | None = None
    milliseconds: float = 0.0  # of the detection


class DetectionRunner(DetectionRun):
    """Detection run over several sources, as a context manager.

    Errors of a source are added to `problems`, and the remaining sources are processed. The exit closes
    `detections.jsonl` in the output folder; every line is flushed. After an exception other than Ctrl-C, the
    `detections.jsonl` of an earlier run is kept.
    """

    def __enter__(self) -> DetectionRunner:
        """Lock the results file before anything is written; raise UserError if another run writes it."""
        self.jsonl_writer.open()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=isinstance(error, Exception))

    def run(self, sources: Sequence[MediaSource]) -> None:
        """Process the images in batches, then videos, cameras and streams, then animated images.

        Raises:
            UserError: The disk is full.
        """
        images = [source for source in sources if isinstance(source, ImageFile)]
        animations = self._process_images(images) if images else []
        videos = VideoProcessor(self)
        for source in [*(source for source in sources if isinstance(source, Video)), *animations]:
            try:
                videos.process(source)
            except (SourceError, UnwritableFileError) as error:
                self.problems += error.problems

    def _process_images(self, images: Sequence[ImageFile]) -> list[Video]:
        """Process the images; return the animated images, which are processed as videos."""
        animations: list[Video] = []
        batch_size = self.settings.batch_size
        read = self.timer.time_iter(map(_read_image, images), "read")
        with BackgroundConsumer(self._finish_image, batch_size) as finish, Prefetcher(read, batch_size) as prefetched:
            waited = self.timer.time_iter(prefetched, "waiting")
            if self.report is None:  # a line per image shows the progress, too
                waited = progress(waited, "detecting", "image", len(images))
            for batch in batched(waited, batch_size):
                self.problems += [problem for item in batch if isinstance(item, DataError) for problem in item.problems]
                animations += [item for item in batch if isinstance(item, Video)]
                readable = [item for item in batch if isinstance(item, PendingImage)]
                start = time.perf_counter()
                with self.timer.measure("detect", len(readable)):
                    results = self.sliced_detector.predict(self.detector, [item.image for item in readable])
                milliseconds = 1000 * (time.perf_counter() - start) / max(1, len(readable))
                with self.timer.measure("waiting", 0):
                    for item, detections in zip(readable, results, strict=True):
                        finish.put(item._replace(detections=detections, milliseconds=milliseconds))
        return animations

    def _finish_image(self, pending: PendingImage) -> None:
        source, image, detections, milliseconds = pending
        assert detections is not None
        if self.settings.draw:
            with self.timer.measure("draw"):
                drawn = self.draw(image, detections)
            with self.timer.measure("write"):
                self._write_copy(source, drawn)
        size_hw = (image.shape[0], image.shape[1])
        self.record(FrameResult(str(source), size_hw, detections))
        classes = [self.detector.class_names[index] for index in detections.class_id.tolist()]
        self.report_line(image_line(source.name.as_posix(), size_hw, classes, milliseconds))
        self.num_images += 1
        self.timer.frame_done()

    def _write_copy(self, source: ImageFile, drawn: np.ndarray) -> None:
        """Write an annotated copy; if it cannot be written, add a message to `problems`."""
        suffix = copy_suffix(source)
        try:
            ok, data = cv2.imencode(suffix, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        except cv2.error:
            ok = False
        if not ok:
            self.problems.append(f"{source}: {drawn.shape[1]}x{drawn.shape[0]} pixels cannot be written as {suffix}")
            return
        try:
            write_bytes(self.output_path(source.name, suffix), mark_image(data.tobytes()))
        except UnwritableFileError as error:
            self.problems += error.problems


def _read_image(source: ImageFile) -> PendingImage | Video | DataError:
    try:
        if is_animated_image(source.path):
            return Video(source.path, source.name)
        return PendingImage(source, read_image(source.path))
    except DataError as error:
        return error
