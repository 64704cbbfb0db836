"""The lines that `detect` prints about images and videos."""

from __future__ import annotations

from collections import Counter

import pytest

from cspdet.inference.result_lines import image_line, video_line


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["dog", "bicycle", "car", "bicycle", "car", "bicycle"], "1 dog, 3 bicycles, 2 cars"),
        (["person"] * 2 + ["sports ball"], "2 people, 1 sports ball"),
        ([], "no detections"),
    ],
)
def test_an_image_has_its_counts_with_the_best_first(classes, expected):
    assert image_line("dog.jpg", (576, 768), classes, 41.4) == f"dog.jpg 576x768: {expected}, 41 ms"


def test_a_video_has_its_frames_and_its_rate():
    counts = Counter({"car": 210, "person": 1})
    line = video_line("road.mp4", (360, 640), 90, 3.0, counts)
    assert line == "road.mp4 360x640: 90 frames, 30.0 per second; detections: 210 cars, 1 person"
    assert video_line("x.mp4", (2, 2), 1, 1.0, Counter()) == "x.mp4 2x2: 1 frame, 1.0 per second; no detections"
