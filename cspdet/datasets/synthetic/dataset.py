"""Write the built-in shapes dataset: images, annotations, descriptor and video. Equal seeds produce equal files."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from cspdet.datasets.formats.coco_writer import (
    CocoImage,
    ConversionResult,
    check_output_folder,
    check_unchanged,
    coco_json,
    count_images_and_boxes,
    format_dataset_config,
)
from cspdet.datasets.synthetic.shapes import CATEGORIES, DrawnShape, ShapesCanvas, make_image, random_shape
from cspdet.datasets.synthetic.texture import add_gaussian_noise, background, draw_clutter
from cspdet.errors import DataError, UserError
from cspdet.io.text import opencv_path

GENERATED_FILES = re.compile(
    r"(train|val)(/\d{6}\.jpg)?|annotations(/instances_(train|val)\.json)?|shapes\.yaml|video\.mp4"
)
FRAMES_PER_SECOND = 25
NUM_FRAMES = 150
VIDEO_SEED_KEY = 2  # replaces the split index in the seed of the video


def make_shapes(output: str | Path, *, images: int = 400, size: int = 320, seed: int = 0) -> ConversionResult:
    """Create the shapes dataset and a video; `output` is created when all files are complete.

    Args:
        output: The output folder: new, empty, or an earlier shapes dataset, which is replaced.
        images: Number of train images; val has a fifth as many.
        size: Height and width of the images in pixels.
        seed: Seed of the random generator.

    Raises:
        DataError: An argument is out of range, or the folder contains other files.
        UserError: The disk is full or not writable; an earlier output is kept.
    """
    config_path = Path(output) / "shapes.yaml"
    output = Path(os.path.abspath(output))
    _validate_args(images, size, seed)
    _check_folder(output)
    real_output = Path(os.path.realpath(output))
    tmp_folder = real_output.with_name(f".{real_output.name}.{os.getpid()}.part")
    try:
        tmp_folder.mkdir(parents=True)
        counts = _write_splits(tmp_folder, {"train": images, "val": max(images // 5, 1)}, size, seed)
        write_video(tmp_folder / "video.mp4", size=size, seed=seed)
        _replace_dir(tmp_folder, real_output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(tmp_folder, ignore_errors=True)
    return ConversionResult(config_path, counts, ())


def _validate_args(images: int, size: int, seed: int) -> None:
    problems = []
    if not 1 <= images <= 200_000:
        problems.append(f"--images: expected 1 to 200000 train images, found {images}")
    if not 64 <= size <= 2048:
        problems.append(f"--size: expected 64 to 2048 pixels, found {size}")
    if seed < 0:
        problems.append(f"--seed: expected 0 or more, found {seed}")
    if problems:
        raise DataError(*problems)


def _check_folder(output: Path) -> None:
    check_output_folder(output, "shapes")
    if not output.is_dir():
        return
    other_files = sorted(
        path
        for path in (file.relative_to(output).as_posix() for file in output.rglob("*"))
        if not GENERATED_FILES.fullmatch(path)
    )
    if other_files:
        raise DataError(
            f"{output}: {len(other_files)} files do not belong to the shapes dataset, the first is {other_files[0]}; "
            "move them away or give another folder, since the whole dataset is replaced"
        )
    check_unchanged(output, "shapes", output.glob("*/*"))


def _write_splits(folder: Path, images_per_split: dict[str, int], size: int, seed: int) -> dict[str, dict[str, int]]:
    counts = {}
    (folder / "annotations").mkdir()
    for split, (name, num_images) in enumerate(images_per_split.items()):
        (folder / name).mkdir()
        coco_images = []
        for index in range(num_images):
            image, boxes = make_image(seed, split, index, size)
            file_name = f"{index + 1:06d}.jpg"
            _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
            (folder / name / file_name).write_bytes(data.tobytes())
            coco_images.append(CocoImage(file_name, (size, size), boxes))
        text = coco_json(CATEGORIES, coco_images, first_id=split * 1_000_000 + 1)
        (folder / "annotations" / f"instances_{name}.json").write_text(text, encoding="utf-8")
        counts[name] = count_images_and_boxes(coco_images)
    described = {name: (name, f"annotations/instances_{name}.json") for name in images_per_split}
    (folder / "shapes.yaml").write_text(format_dataset_config("shapes", described), encoding="utf-8")
    return counts


def _replace_dir(tmp_folder: Path, output: Path) -> None:
    """Rename the finished folder to `output`; an existing folder is moved away first, and restored on failure."""
    if not output.exists():
        tmp_folder.rename(output)
        return
    backup = output.with_name(f".{output.name}.{os.getpid()}.old")
    output.rename(backup)
    try:
        tmp_folder.rename(output)
    except OSError:
        backup.rename(output)
        raise
    shutil.rmtree(backup, ignore_errors=True)


def write_video(path: Path, *, size: int = 320, seed: int = 0, frames: int = NUM_FRAMES) -> None:
    """Write a video (25 frames per second) of one moving and rotating shape per class on a textured background.

    Args:
        path: The mp4 file.
        size: Height and width in pixels; odd sizes are reduced by one.
        seed: Seed of the random generator.
        frames: Number of frames.

    Raises:
        UserError: OpenCV has no MPEG-4 writer, or the disk is full.
    """
    side = size - size % 2  # MPEG-4 requires even sides
    writer = cv2.VideoWriter(opencv_path(path), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_SECOND, (side, side))
    if not writer.isOpened():
        raise UserError(f"{path}: this OpenCV cannot write MPEG-4 video (codec mp4v)")
    try:
        for frame in _frames(side, seed, frames):
            writer.write(frame)
    finally:
        writer.release()
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the video is empty; is the disk full?")


def _frames(side: int, seed: int, frames: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng((seed, VIDEO_SEED_KEY, 0))
    base_image = background(rng, (side, side))
    draw_clutter(rng, base_image, 5)
    shapes = [_random_moving_shape(rng, base_image, class_index) for class_index in range(len(CATEGORIES))]
    speeds = [rng.choice([-1, 1], 2) * rng.uniform(0.15, 0.45, 2) * side / FRAMES_PER_SECOND for _ in shapes]
    spins = [float(rng.uniform(-2, 2)) / FRAMES_PER_SECOND for _ in shapes]  # radians per frame
    for i in range(frames):
        canvas = ShapesCanvas(base_image.copy())
        for shape, speed, spin in zip(shapes, speeds, spins, strict=True):
            x, y = (
                _bounce(position + i * step, shape.diameter / 2, side - shape.diameter / 2)
                for position, step in zip(shape.center, speed, strict=True)
            )
            canvas.add(replace(shape, center=(x, y), angle=shape.angle + i * spin))
        yield add_gaussian_noise(rng, canvas.image, 4.0)


def _random_moving_shape(rng: np.random.Generator, base_image: np.ndarray, class_index: int) -> DrawnShape:
    side = min(base_image.shape[:2])
    return replace(random_shape(rng, base_image, class_index), diameter=float(rng.uniform(0.15, 0.3) * side))


def _bounce(position: float, low: float, high: float) -> float:
    """Reflect a position at the ends of the interval [low, high] until the position is inside."""
    span = high - low
    return low + span - abs(math.fmod(abs(position - low), 2 * span) - span)
