"""Pascal VOC's AP: worked out by hand, and against the devkit's rules written as plain loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_data import result, truth, write_set
from hypothesis import given
from hypothesis import strategies as st

from cspdet.cli.main import run_command
from cspdet.evaluation.voc import ImageBoxes, VocPrecisionRecall, average_precision, elementwise_iou, match_detections


def boxes(*rows: tuple[int, list[float]]) -> ImageBoxes:
    """Images and x1 y1 x2 y2."""
    return ImageBoxes(np.array([image for image, _ in rows], np.int64), np.array([b for _, b in rows]).reshape(-1, 4))


def curve(
    found: ImageBoxes, score: list[float], truth: ImageBoxes, difficult: list[bool], **more: float
) -> VocPrecisionRecall:
    settings = {"min_iou": 0.5, "pixel_inclusive": False} | more
    return match_detections(found, np.array(score), truth, np.array(difficult, bool), **settings)


def test_inclusive_boxes_are_one_pixel_longer():
    # Inclusive: 10x10 and 10x5 pixels, 50 shared of 100. Continuous: 9x9 and 9x4, 36 shared of 81.
    a, b = np.array([[0.0, 0, 9, 9]]), np.array([[0.0, 0, 9, 4]])
    assert elementwise_iou(a, b, pixel_inclusive=True) == pytest.approx(50 / 100)
    assert elementwise_iou(a, b, pixel_inclusive=False) == pytest.approx(36 / 81)
    # Boxes whose border pixels coincide share 10 of 190 pixels, and as areas nothing.
    beside = np.array([[9.0, 0, 18, 9]])
    assert elementwise_iou(a, beside, pixel_inclusive=True) == pytest.approx(10 / 190)
    assert elementwise_iou(a, beside, pixel_inclusive=False) == 0
    point = np.array([[1.0, 1, 1, 1]])
    assert elementwise_iou(point, point, pixel_inclusive=False) == 0


def test_both_areas_computed_by_hand():
    # Right, wrong, right, wrong with three ground-truth boxes: precision 1, 1/2, 2/3, 1/2 at recall 1/3, 1/3, 2/3, 2/3.
    #   11-point: recalls 0 to .3 take 1 (4 points), .4 to .6 take 2/3 (3 points), .7 to 1 nothing: (4 + 2) / 11
    #   every point: 1/3 x 1 + 1/3 x 2/3 = 5/9
    ap = average_precision(VocPrecisionRecall(np.array([1, 1, 2, 2]), 3))
    assert ap is not None
    assert ap.eleven_point == pytest.approx(6 / 11)
    assert ap.every_point == pytest.approx(5 / 9)


def test_a_recall_of_exactly_six_tenths_misses_the_seventh_point():
    # Nine right of fifteen: floating point has .6 (9/15) below its 6 x .1. Points 0 to .5 take 1, the rest nothing.
    ap = average_precision(VocPrecisionRecall(np.arange(1, 10), 15))
    assert ap is not None
    assert ap.eleven_point == pytest.approx(6 / 11)
    assert ap.every_point == pytest.approx(9 / 15)


def test_nothing_found_is_0_and_nothing_to_find_is_no_number():
    assert average_precision(VocPrecisionRecall(np.array([], np.int64), 3)) == (0.0, 0.0)
    assert average_precision(VocPrecisionRecall(np.array([0, 0]), 0)) is None


def test_the_truth_that_overlaps_most_decides_even_when_it_is_taken():
    # The second detection overlaps the left truth by 10/10 and the right one by 8/12 (8 shared of 12): both enough.
    # The left one, its best, went to the first detection, so it is wrong, and the right truth stays unfound.
    ground_truth = boxes((1, [0, 0, 10, 10]), (1, [2, 0, 12, 10]))
    found = boxes((1, [0, 0, 10, 10]), (1, [0, 0, 10, 10]))
    assert curve(found, [0.9, 0.8], ground_truth, [False, False]) == (pytest.approx([1, 1]), 2)


def test_of_ground_truth_that_overlaps_equally_the_first_decides():
    ground_truth = boxes((1, [0, 0, 10, 10]), (1, [0, 0, 10, 10]))
    found = boxes((1, [0, 0, 10, 10]), (1, [0, 0, 10, 10]))
    assert curve(found, [0.9, 0.8], ground_truth, [False, False]) == (pytest.approx([1, 1]), 2)
    assert curve(found, [0.9, 0.8], ground_truth, [True, False]) == (pytest.approx([]), 1), "the first one is difficult"


def test_difficult_objects_are_neither_found_nor_missed():
    ground_truth = boxes((1, [0, 0, 10, 10]), (1, [50, 50, 60, 60]))
    found = boxes((1, [0, 0, 10, 10]), (1, [1, 0, 11, 10]), (1, [50, 50, 60, 60]))
    assert curve(found, [0.9, 0.8, 0.7], ground_truth, [True, False]) == (pytest.approx([1]), 1)


def test_images_are_kept_apart_and_ties_keep_their_order():
    ground_truth = boxes((7, [0, 0, 10, 10]))
    found = boxes((8, [0, 0, 10, 10]), (7, [0, 0, 10, 10]))
    assert curve(found, [0.5, 0.5], ground_truth, [False]).true_positives.tolist() == [0, 1]
    assert curve(found, [0.5, 0.6], ground_truth, [False]).true_positives.tolist() == [1, 1]


def test_an_overlap_of_exactly_the_limit_is_enough():
    ground_truth, found = boxes((1, [0, 0, 10, 10])), boxes((1, [0, 0, 10, 5]))
    assert curve(found, [0.5], ground_truth, [False]).true_positives.tolist() == [1]
    assert curve(found, [0.5], ground_truth, [False], min_iou=0.5000001).true_positives.tolist() == [0]


def by_plain_loops(
    found: list[tuple[int, list[int], float]],
    ground_truth: list[tuple[int, list[int], bool]],
    min_iou: float,
    more: int,
) -> tuple[float, float] | None:
    """The devkit's rules, one detection after the other; 11-point and every-point AP."""
    positives = sum(not difficult for _, _, difficult in ground_truth)
    if not positives:
        return None
    taken, right = set(), []
    for image, box, _ in sorted(found, key=lambda one: -one[2]):
        best, decides = 0.0, None
        for i, (where, other, _) in enumerate(ground_truth):
            width = min(box[2], other[2]) - max(box[0], other[0]) + more
            height = min(box[3], other[3]) - max(box[1], other[1]) + more
            if where != image or width <= 0 or height <= 0:
                continue
            areas = [(b[2] - b[0] + more) * (b[3] - b[1] + more) for b in (box, other)]
            iou = width * height / (sum(areas) - width * height)
            if iou > best:
                best, decides = iou, i
        if decides is None or best < min_iou:
            right.append(False)
        elif not ground_truth[decides][2]:
            right.append(decides not in taken)
            taken.add(decides)
    points = [(sum(right[:n]) / positives, sum(right[:n]) / n) for n in range(1, len(right) + 1)]
    eleven = sum(max((p for r, p in points if r >= 0.1 * i), default=0.0) for i in range(11)) / 11
    every, last = 0.0, 0.0
    for n, (recall, _) in enumerate(points):
        every += (recall - last) * max(p for _, p in points[n:])
        last = recall
    return eleven, every


CORNER = st.integers(0, 6)
PLACE = st.tuples(st.integers(1, 3), st.tuples(CORNER, CORNER, st.integers(1, 6), st.integers(1, 6))).map(
    lambda place: (place[0], [place[1][0], place[1][1], place[1][0] + place[1][2], place[1][1] + place[1][3]])
)


@given(
    found=st.lists(st.tuples(PLACE, st.integers(0, 5)), max_size=25),
    ground_truth=st.lists(st.tuples(PLACE, st.booleans()), max_size=12),
    min_iou=st.sampled_from([0.1, 0.3, 0.5, 0.75]),
    inclusive=st.booleans(),
)
def test_agrees_with_the_rules_as_plain_loops(found, ground_truth, min_iou, inclusive):
    evaluated = match_detections(
        boxes(*(place for place, _ in found)),
        np.array([score / 5 for _, score in found]),
        boxes(*(place for place, _ in ground_truth)),
        np.array([difficult for _, difficult in ground_truth], bool),
        min_iou=min_iou,
        pixel_inclusive=inclusive,
    )
    ap = average_precision(evaluated)
    expected = by_plain_loops(
        [(*place, score / 5) for place, score in found],
        [(*place, difficult) for place, difficult in ground_truth],
        min_iou,
        int(inclusive),
    )
    assert ap == (None if expected is None else pytest.approx(expected, abs=1e-12))


# --- in the command ------------------------------------------------------------------------------

# disc: a truth of 20x20 pixels and a difficult one (crowd); bar: one truth of 10x10, and a detection of 10x5.
GROUND_TRUTH = [truth(10, 3, [5, 5, 20, 20]), truth(10, 3, [60, 5, 20, 20], iscrowd=1), truth(20, 17, [0, 0, 10, 10])]
FOUND = [
    result(10, 3, [60, 5, 20, 20], 0.9),
    result(10, 3, [5, 5, 20, 20], 0.8),
    result(20, 3, [5, 5, 20, 20], 0.7),
    result(20, 17, [0, 0, 10, 5], 0.6),
]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path, GROUND_TRUTH)
    Path("found.json").write_text(json.dumps(FOUND))
    return ["--detections", "found.json", "--data", "data.yaml", "--output", "out"]


def test_eval_writes_both_kinds(words, capsys):
    assert run_command("eval", [*words, "--voc", "--json"]) == 0
    voc = json.loads(capsys.readouterr().out)["voc"]
    assert json.loads(Path("out/metrics.json").read_text())["voc"] == voc
    # Inclusive, the bar is 11x11 and its detection 11x6 pixels: 66 / 121 is enough.
    everything = {"AP": 1.0, "per_class": {"disc": 1.0, "bar": 1.0}}
    assert voc == {
        "iou": 0.5,
        "pixel_inclusive": True,
        "11_point": everything,
        "every_point": everything,
    }


@pytest.mark.parametrize(
    ("more", "bar"),
    [
        (["--voc-iou", "0.5"], 1.0),
        (["--voc-iou", "0.6"], 0.0),
        (["--voc-pixels", "continuous"], 1.0),  # 50 / 100
        (["--voc-pixels", "continuous", "--voc-iou", "0.51"], 0.0),
        (["--voc-pixels", "inclusive", "--voc-iou", "0.51"], 1.0),
    ],
)
def test_its_settings_imply_it(words, capsys, more, bar):
    assert run_command("eval", [*words, *more, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["voc"]["11_point"]["per_class"] == {"disc": 1.0, "bar": bar}


def test_the_table_shows_it_beside_coco(words, capsys):
    assert run_command("eval", [*words, "--voc-iou", "0.6"]) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("VOC AP at IoU 0.6") :].splitlines()
    rows = {words[0]: words[1:] for words in map(str.split, table) if len(words) == 3}
    assert (rows["all"], rows["bar"]) == (["0.5000", "0.5000"], ["0.0000", "0.0000"])


def test_without_truth_it_has_no_number(words, tmp_path, capsys):
    write_set(tmp_path, [])
    assert run_command("eval", [*words, "--voc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["voc"]["every_point"] == {
        "AP": None,
        "per_class": {"disc": None, "bar": None},
    }


@pytest.mark.parametrize("iou", ["0", "1.5", "nan"])
def test_an_overlap_that_cannot_be_is_refused(words, capsys, iou):
    assert run_command("eval", [*words, "--voc-iou", iou]) == 2
    assert "error: --voc-iou: expected more than 0 and at most 1" in capsys.readouterr().err


def test_without_being_asked_for_it_is_left_out(words, capsys):
    assert run_command("eval", [*words, "--json"]) == 0
    assert "voc" not in json.loads(capsys.readouterr().out)
