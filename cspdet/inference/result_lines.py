"""Lines of text about the detections of an image or video, as `cspdet detect` prints them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cspdet.io.names import count


def image_line(name: str, size_hw: tuple[int, int], classes: Sequence[str], milliseconds: float) -> str:
    """Describe an image: `dog.jpg 576x768: 1 dog, 3 bicycles, 41 ms`.

    Args:
        name: Name of the image.
        size_hw: Height and width of the image in pixels.
        classes: Class name of each detection, best first.
        milliseconds: Time for the detection: resizing, network and NMS.
    """
    return f"{name} {size_hw[0]}x{size_hw[1]}: {_class_counts(Counter(classes))}, {milliseconds:.0f} ms"


def video_line(name: str, size_hw: tuple[int, int], frames: int, seconds: float, counts: Counter[str]) -> str:
    """Describe a video: `road.mp4 360x640: 90 frames, 30.1 per second; detections: 210 cars, 33 people`.

    Args:
        name: Name of the video.
        size_hw: Height and width of the frames in pixels.
        frames: Number of processed frames.
        seconds: Time for reading, detecting, drawing and writing all frames.
        counts: Number of detections of each class, in all frames.
    """
    rate = f"{count(frames, 'frame')}, {frames / max(seconds, 1e-9):.1f} per second"
    found = f"detections: {_class_counts(counts)}" if counts else "no detections"
    return f"{name} {size_hw[0]}x{size_hw[1]}: {rate}; {found}"


def _class_counts(counts: Counter[str]) -> str:
    return ", ".join(count(number, name) for name, number in counts.items()) or "no detections"
