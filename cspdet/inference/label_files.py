"""Detections as annotation files for pre-labelling: COCO JSON, YOLO txt and CSV, from the lines of detections.jsonl."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cspdet.errors import ConfigError, UnwritableFileError
from cspdet.inference.records import DetectionRecord, FrameRecord
from cspdet.inference.sources import ImageFile, MediaSource
from cspdet.io.atomic import fit_name, write_text
from cspdet.io.csv_text import CsvRow, format_csv
from cspdet.io.outputs import DETECTIONS_CSV, NOT_REPLACED, OutputFile
from cspdet.io.terminal import escape_line

CSV_HEADER = (
    "source", "frame", "time_s", "width", "height", "class_id", "class_name", "score", "x1", "y1", "x2", "y2",
    "track_id", "category_id",
)  # fmt: skip


class LabelSet(NamedTuple):
    """The detections, image names and classes from which annotation files are written.

    Attributes:
        records: The lines of detections.jsonl, in order.
        names: Name of the image of each line, unique; frame 7 of `a.mp4` is `a_000007.jpg`.
        categories: Class names by category id, in the order of the class indices.
        problems: Errors of label files that cannot be written. `write_label_files` appends them, and writes the other
            files.
    """

    records: Sequence[FrameRecord]
    names: Sequence[Path]
    categories: Mapping[int, str]
    problems: list[str]


def write_label_files(output: Path, formats: Iterable[str], labels: LabelSet) -> list[str]:
    """Write the files of each format into `output`; return their names.

    Args:
        output: The output folder of a detection run.
        formats: Names of formats, from `cspdet.inference.config.LABEL_FORMATS`.
        labels: The detections.

    Raises:
        UserError: A file cannot be written.
    """
    return [name for label_format in dict.fromkeys(formats) for name in WRITERS[label_format](output, labels)]


def label_outputs(output: Path, formats: Iterable[str], sources: Sequence[MediaSource]) -> list[OutputFile]:
    """Return the files that `write_label_files` will write, for a check before the run.

    Label files of a video are returned only if they exist. COCO and YOLO files of an earlier run are not replaced,
    because the user may have corrected them.
    """
    outputs: list[OutputFile] = []
    if "csv" in formats:
        outputs.append(OutputFile(output / "detections.csv", DETECTIONS_CSV))
    if "coco" in formats:
        outputs.append(OutputFile(output / "coco.json", NOT_REPLACED))
    if "yolo" in formats:
        names = _source_names(sources)
        files = [output / "classes.txt"]
        for source in sources:
            label = output / "labels" / names[str(source)].with_suffix(".txt")
            frames = glob.escape(_frame_name(label, 0).stem.removesuffix("000000"))
            files += [label] if isinstance(source, ImageFile) else label.parent.glob(f"{frames}[0-9]*.txt")
        outputs += [OutputFile(file, NOT_REPLACED) for file in dict.fromkeys(files)]
    return outputs


def image_names(sources: Sequence[MediaSource], records: Iterable[FrameRecord]) -> list[Path]:
    """Return the image name of each record.

    An image name is the path of the source relative to the folder that was searched. If these paths are not unique, all
    paths are relative to the common folder of the files. The name of a video frame ends in its index: `a_000007.jpg`.
    """
    names = _source_names(sources)
    return [_frame_name(names.get(r["source"], Path(Path(r["source"]).name)), r["frame"]) for r in records]


def check_label_names(sources: Sequence[MediaSource]) -> None:
    """Raise ConfigError if two images would have the same YOLO label file."""
    stems: dict[Path, Path] = {}
    for name in _source_names(sources).values():
        other = stems.setdefault(name.with_suffix(""), name)
        if other != name:
            raise ConfigError(
                f"--save-as yolo: {other} and {name} would have the same label file, {name.with_suffix('.txt').name}; "
                "rename one of them"
            )


def _source_names(sources: Sequence[MediaSource]) -> dict[str, Path]:
    """Return the image name of each source, by the name of the source in detections.jsonl."""
    counts = Counter(source.name for source in sources)
    paths = {
        str(source): path
        for source in sources
        if isinstance(path := source.path if isinstance(source, ImageFile) else source.address, Path)
    }
    if max(counts.values(), default=0) > 1 and paths:
        folder = os.path.commonpath([path.parent.absolute() for path in paths.values()])
        relative = {text: Path(os.path.relpath(path.absolute(), folder)) for text, path in paths.items()}
        return {str(source): relative.get(str(source), source.name) for source in sources}
    return {str(source): source.name for source in sources}


def _frame_name(name: Path, frame: int | None) -> Path:
    return name if frame is None else name.with_name(fit_name(name.stem, f"_{frame:06d}.jpg"))


def _write_coco(output: Path, labels: LabelSet) -> list[str]:
    """Write coco.json, a COCO dataset whose annotations have a `score`, and return the name of the file."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (record, name) in enumerate(zip(labels.records, labels.names, strict=True), start=1):
        size = {"width": record["width"], "height": record["height"]}
        images.append({"id": image_id, "file_name": name.as_posix(), **size})
        for detection, (x1, y1, x2, y2) in _clipped(record):
            width, height = round(x2 - x1, 3), round(y2 - y1, 3)
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": detection["category_id"],
                "bbox": [x1, y1, width, height], "area": round(width * height, 3), "iscrowd": 0,
                "score": detection["score"],
            })  # fmt: skip
    categories = [{"id": category_id, "name": name} for category_id, name in labels.categories.items()]
    document = {"images": images, "annotations": annotations, "categories": categories}
    write_text(output / "coco.json", json.dumps(document, ensure_ascii=False) + "\n")
    return ["coco.json"]


def _write_yolo(output: Path, labels: LabelSet) -> list[str]:
    """Write classes.txt, and one file per image in labels/; return ["labels", "classes.txt"].

    The lines of a label file are `class x_center y_center width height`, as fractions of the image.
    """
    for record, name in zip(labels.records, labels.names, strict=True):
        lines = []
        for detection, (x1, y1, x2, y2) in _clipped(record):
            x, width = (x1 + x2) / 2 / record["width"], (x2 - x1) / record["width"]
            y, height = (y1 + y2) / 2 / record["height"], (y2 - y1) / record["height"]
            lines.append(f"{detection['class_id']} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n")
        try:
            write_text(output / "labels" / name.with_suffix(".txt"), "".join(lines))
        except UnwritableFileError as error:
            labels.problems.extend(error.problems)
    write_text(output / "classes.txt", "".join(f"{escape_line(name)}\n" for name in labels.categories.values()))
    return ["labels", "classes.txt"]


def _write_csv(output: Path, labels: LabelSet) -> list[str]:
    """Write detections.csv with one line per detection, and return its name; boxes are in image pixels."""
    write_text(output / "detections.csv", format_csv(CSV_HEADER, _csv_rows(labels.records)))
    return ["detections.csv"]


def _csv_rows(records: Iterable[FrameRecord]) -> Iterator[CsvRow]:
    for record in records:
        head = (record["source"], record["frame"], record["time_s"], record["width"], record["height"])
        for detection in record["detections"]:
            class_columns = (detection["class_id"], detection["class_name"], detection["score"])
            yield (*head, *class_columns, *detection["box_xyxy"], detection.get("track_id"), detection["category_id"])


def _clipped(record: FrameRecord) -> Iterator[tuple[DetectionRecord, tuple[float, float, float, float]]]:
    """Yield each detection with its box (x1, y1, x2, y2) clipped to the image; boxes outside the image are left out."""
    width, height = record["width"], record["height"]
    for detection in record["detections"]:
        x1, y1, x2, y2 = detection["box_xyxy"]
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        if box[0] < box[2] and box[1] < box[3]:
            yield detection, box


WRITERS: dict[str, Callable[[Path, LabelSet], list[str]]] = {
    "coco": _write_coco,
    "yolo": _write_yolo,
    "csv": _write_csv,
}
