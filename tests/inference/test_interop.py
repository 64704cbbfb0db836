"""Detections for trackers and other programs: MOTChallenge lines, supervision, and ids from frame to frame."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from cspdet.errors import ConfigError
from cspdet.inference import tracking
from cspdet.inference.interop import to_mot_lines, to_supervision
from cspdet.inference.tracking import Tracker
from cspdet.structures import Detections

FOUND = Detections(
    torch.tensor([[10.0, 20.0, 30.5, 60.0], [0.0, 0.0, 4.0, 4.0]]), torch.tensor([0.75, 0.5]), torch.tensor([2, 0])
)


def test_lines_of_the_mot_challenge():
    assert to_mot_lines(7, FOUND) == [
        "7,-1,10.00,20.00,20.50,40.00,0.750000,-1,-1,-1",
        "7,-1,0.00,0.00,4.00,4.00,0.500000,-1,-1,-1",
    ]
    assert to_mot_lines(1, FOUND, [None, 3]) == ["1,3,0.00,0.00,4.00,4.00,0.500000,-1,-1,-1"]


def test_what_is_not_installed_is_reported_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install 'supervision"):
        to_supervision(FOUND)
    with pytest.raises(ConfigError, match=r"--track: supervision is not installed.*--no-deps trackers"):
        Tracker(25.0, 0.25)


@pytest.mark.e2e
def test_supervision_gets_the_same_numbers():
    pytest.importorskip("supervision")
    there = to_supervision(FOUND, ("cat", "dog", "cup"))
    assert there.xyxy.tolist() == FOUND.box_xyxy.tolist()
    assert there.confidence.tolist() == [0.75, 0.5]
    assert there.class_id.tolist() == [2, 0]
    assert there.data["class_name"].tolist() == ["cup", "cat"]
    assert len(to_supervision(Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)))) == 0


class Part:
    """Stands in for supervision's Detections."""

    def __init__(self, found: Detections):
        self.xyxy = found.box_xyxy.numpy()
        self.data: dict[str, np.ndarray] = {}
        self.tracker_id: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.xyxy)


class LeftOf50:
    """Stands in for a tracker: the box left of x = 50 is its number 4, others have none; gives them backwards."""

    def update(self, part: Part) -> Part:
        part.xyxy = part.xyxy[::-1]
        part.data = {"index": part.data["index"][::-1]}
        part.tracker_id = np.where(part.xyxy[:, 0] < 50, 4, -1) if len(part) else None
        return part


def test_ids_belong_to_their_boxes_and_to_one_class(monkeypatch):
    monkeypatch.setattr(tracking, "check_installed", lambda: None)
    monkeypatch.setattr(tracking, "to_supervision", Part)
    monkeypatch.setattr(Tracker, "_create_tracker", lambda _: LeftOf50())
    tracker = Tracker(25.0, 0.25)
    found = Detections(
        torch.tensor([[60.0, 0, 70, 9], [10, 0, 20, 9], [20, 0, 30, 9]]), torch.ones(3), torch.tensor([0, 0, 1])
    )
    assert tracker.update(found) == [None, 1, 2], "number 4 of class 0 is not number 4 of class 1"
    assert tracker.update(Detections(found.box_xyxy[:0], found.score[:0], found.class_id[:0])) == []
    assert tracker.update(found) == [None, 1, 2]


@pytest.mark.e2e
def test_an_object_keeps_its_number_while_it_moves():
    pytest.importorskip("supervision")
    pytest.importorskip("trackers")
    tracker = Tracker(25.0, 0.25)
    ids = []
    for step in range(12):
        boxes = torch.tensor([[10.0 + 4 * step, 10, 50 + 4 * step, 60], [300.0 - 4 * step, 100, 340 - 4 * step, 160]])
        ids.append(tracker.update(Detections(boxes, torch.tensor([0.8, 0.7]), torch.tensor([0, 0]))))
    settled = ids[3:]
    assert len({tuple(pair) for pair in settled}) == 1
    first, second = settled[0]
    assert None not in (first, second)
    assert first != second
