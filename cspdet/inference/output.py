"""Settings and state of a detection run: output files, counts and errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cspdet.errors import UserError
from cspdet.inference.draw import draw_boxes, label_detections
from cspdet.inference.predictor import Predictor
from cspdet.inference.records import FrameResult, JsonlWriter
from cspdet.inference.slicing import SlicedDetector
from cspdet.inference.sources import ImageFile, MediaSource
from cspdet.inference.timer import StageTimer
from cspdet.inference.video.writer import Codec
from cspdet.io.atomic import fit_name
from cspdet.io.outputs import ANNOTATED, DETECTIONS_JSONL, MOT, OutputFile, check_outputs, is_other_file
from cspdet.structures import Detections

STAGES = ("read", "detect", "draw", "write", "waiting")  # waiting: the network waits for other stages
RESULTS_FILE = "detections.jsonl"


@dataclass(frozen=True)
class DetectionSettings:
    """Settings for the processing of sources and for the written files.

    Attributes:
        batch_size: Images or frames per forward pass, or processed in parallel; always 1 for live sources.
        max_seconds: Maximum duration of each video, camera or stream in seconds; None: no limit.
        stride: Process every n-th frame.
        reconnect: Maximum number of consecutive attempts to reconnect to a lost camera or stream.
        draw: Write annotated images and videos; False: write only result lines.
        codec: Codec of annotated videos.
        preset: Preset of x264.
        line_width: Line width in pixels; None: computed from the image size.
        hide_labels: Draw boxes without names and scores.
        show_speed: Draw the speed on every frame.
        track_min_score: Minimum score of the first detection of a track; None: no tracking.
        mot_path: Also write a MOTChallenge file.
    """

    batch_size: int = 8
    max_seconds: float | None = None
    stride: int = 1
    reconnect: int = 5
    draw: bool = True
    codec: Codec = "mp4v"
    preset: str = "ultrafast"
    line_width: int | None = None
    hide_labels: bool = False
    show_speed: bool = False
    track_min_score: float | None = None
    mot_path: Path | None = None


class CopyNames:
    """Chooses the names of annotated copies: the name of the source, with a number if another copy has that name."""

    def __init__(self) -> None:
        self._used: set[str] = {RESULTS_FILE}

    def choose(self, name: Path, suffix: str) -> Path:
        """Return a path relative to the output folder that was not returned before; case is ignored."""
        number = 1
        while True:
            path = name.with_name(fit_name(name.stem, f"{f'-{number}' if number > 1 else ''}{suffix}"))
            if path.as_posix().lower() not in self._used:
                self._used.add(path.as_posix().lower())
                return path
            number += 1


def copy_suffix(source: MediaSource) -> str:
    """Return the suffix of an annotated copy: .mp4 for a video, that of the source for an image.

    If OpenCV cannot write the format of the image, the suffix is .png.
    """
    if isinstance(source, ImageFile):
        return source.path.suffix if cv2.haveImageWriter(f"image{source.path.suffix}") else ".png"
    return ".mp4"


def check_detect_outputs(
    output: Path,
    sources: Sequence[MediaSource],
    settings: DetectionSettings,
    inputs: Sequence[str | Path | None],
    others: Sequence[OutputFile] = (),
) -> None:
    """Check, before anything is opened, that a run replaces no file except results of earlier runs.

    Args:
        output: The output folder.
        sources: The images and videos.
        settings: Which files are written.
        inputs: Other files that the command reads.
        others: Other files that the command writes.

    Raises:
        UserError: The folder contains a source, or an output is a source or another file of the user.
    """
    files = [source.path if isinstance(source, ImageFile) else source.address for source in sources]
    paths = [path for path in files if isinstance(path, Path)]
    if os.path.realpath(output) in {os.path.realpath(folder) for folder in {path.parent for path in paths}}:
        raise UserError(f"--output {output}: expected another folder; this one contains the source")
    outputs = [OutputFile(output / RESULTS_FILE, DETECTIONS_JSONL), *others]
    if settings.mot_path is not None:
        outputs.append(OutputFile(settings.mot_path, MOT))
    if settings.draw:
        names = CopyNames()
        images_first = sorted(sources, key=lambda source: not isinstance(source, ImageFile))
        copies = (output / names.choose(source.name, copy_suffix(source)) for source in images_first)
        outputs += [OutputFile(copy, ANNOTATED, is_one_of_many=True) for copy in copies]
    check_outputs(outputs, [*paths, *inputs])


class DetectionRun:
    """State of a detection run, shared by images and videos. Call `close` at the end.

    Attributes:
        detector: The predictor that runs the model.
        sliced_detector: Applies the class filter and the tiling.
        settings: Settings for the processing of sources.
        output: The output folder.
        problems: Errors of individual sources; the remaining sources are still processed.
        num_images: Number of processed images.
        num_frames: Number of processed frames.
        num_limited: Number of images and frames with `max_detections` detections: there may be more objects.
        num_dropped: Number of frames of live sources that were not processed.
        timer: Measures the time of each stage.
        jsonl_writer: Writer of `detections.jsonl`; every line is flushed.
        report: Function that gets a line of text about each image and video; None: no lines.
    """

    def __init__(self, detector: Predictor, output: Path, sliced_detector: SlicedDetector, settings: DetectionSettings):
        self.detector, self.output, self.sliced_detector, self.settings = detector, output, sliced_detector, settings
        self.problems: list[str] = []
        self.num_images = self.num_frames = self.num_dropped = self.num_limited = 0
        self.timer = StageTimer(STAGES)
        self.report: Callable[[str], None] | None = None
        self._names = CopyNames()
        self.jsonl_writer = JsonlWriter(
            output / RESULTS_FILE, detector.class_names, detector.category_ids, mot_path=settings.mot_path
        )

    def record(self, result: FrameResult) -> None:
        """Write the detections of an image or frame; if they are `max_detections` or more, increase `num_limited`."""
        self.jsonl_writer.add(result)
        self.num_limited += len(result.detections) >= self.sliced_detector.postprocess.max_detections

    def report_line(self, line: str) -> None:
        """Pass a line to `report`. If a line cannot be printed, the run continues, but prints no further lines."""
        if self.report is None:
            return
        try:
            self.report(line)
        except BrokenPipeError:  # `cspdet detect ... | head`
            self.report = None
        except UserError as error:  # the disk is full
            self.report, self.problems = None, [*self.problems, *error.problems]

    def close(self, *, failed: bool = False) -> None:
        """Close the results file, which replaces an earlier one unless the run `failed`."""
        self.jsonl_writer.close(failed=failed)

    def output_path(self, name: Path, suffix: str) -> Path:
        """Return the path of an annotated copy; a number is added if another copy or user file has the name."""
        while True:
            path = self.output / self._names.choose(name, suffix)
            if not is_other_file(path, ANNOTATED):
                return path

    def draw(
        self,
        image: np.ndarray,
        detections: Detections,
        track_ids: Sequence[int | None] | None = None,
        caption: str = "",
    ) -> np.ndarray:
        """Draw detections and a caption on an image, in place if possible; return the annotated image."""
        labels, colors = label_detections(detections, self.detector.class_names, track_ids)
        return draw_boxes(
            image,
            detections.box_xyxy.cpu().numpy(),
            None if self.settings.hide_labels else labels,
            colors,
            width=self.settings.line_width,
            caption=caption,
            in_place=True,  # the image is not used again after detection
        )
