"""`detect` and `load_detector`: what is found, written and told, for every kind of source."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from evaluation_data import CONFIG, SquareFinder, picture_with_square, square_model

from cspdet.cli import run_command
from cspdet.inference import predictor
from cspdet.inference.predictor import Predictor, in_image, load_detector
from cspdet.inference.video_writer import video_writer
from cspdet.letterbox import Letterbox
from cspdet.types import Detections

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SquareFinder:
    """The command finds white squares, and runs in an empty folder."""
    loaded = square_model()
    monkeypatch.setattr("cspdet.commands.detect.load_model", lambda *_, **__: loaded)
    monkeypatch.setattr(predictor, "load_model", lambda *_, **__: loaded)
    monkeypatch.chdir(tmp_path)
    return loaded.model  # type: ignore[return-value]


def save(path: str, image: np.ndarray) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(path, image)


def make_video(path: str, frames: int, rate: float = 12.5) -> None:
    """A white square that goes one cell to the right with each frame, round and round."""
    with video_writer(Path(path), rate) as writer:
        for i in range(frames):
            writer.write(picture_with_square(0, i % 3))


def lines(folder: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "detections.jsonl").read_text().splitlines()]


def detect(*words: str) -> int:
    return run_command("detect", ["squares.pt", *words, "--output", "out"])


def test_a_picture_gives_a_drawn_copy_and_a_line(capsys):
    save("in/street.png", picture_with_square(1, 2))
    before = Path("in/street.png").read_bytes()
    assert detect("in/street.png") == 0
    (line,) = lines()
    (found,) = line.pop("detections")
    assert line == {"source": "in/street.png", "frame": None, "time_s": None, "width": 96, "height": 64}
    assert found.pop("score") == pytest.approx(0.99991, abs=1e-5)
    assert found == {"box_xyxy": [64.0, 32.0, 96.0, 64.0], "class_id": 3, "class_name": "disc"}
    drawn = cv2.imread("out/street.png")
    assert drawn.shape == (64, 96, 3)
    assert (drawn != cv2.imread("in/street.png")).any()
    assert Path("in/street.png").read_bytes() == before
    assert "1 picture in" in capsys.readouterr().out


def test_boxes_come_in_pixels_of_the_original():
    save("big.png", picture_with_square(0, 1, scale=4))  # 256x384, a quarter of it fills the input of 64x96
    save("slim.png", picture_with_square(1, 0)[:, :32])  # 64x32, in the middle third of the input
    assert detect("*.png") == 0
    boxes = [line["detections"][0]["box_xyxy"] for line in lines()]
    assert boxes == [[128.0, 0.0, 256.0, 128.0], [0.0, 32.0, 32.0, 64.0]]


def test_boxes_are_cut_to_the_picture():
    found = Detections(torch.tensor([[-5.0, 10, 200, 99]]), torch.tensor([0.5]), torch.tensor([0]))
    # 30x40 pixels at twice the size, 8 pixels from the left: x (200 - 8) / 2 = 96 and y 99 / 2 lie outside
    (cut,) = in_image([found], [Letterbox(2.0, 2.0, 8, 0)], [(30, 40)])
    assert cut.box_xyxy.tolist() == [[0.0, 5.0, 40.0, 30.0]]


def test_folders_keep_their_structure_and_a_bad_picture_stops_nothing(capsys):
    save("in/a.jpg", picture_with_square(0, 0))
    save("in/sub/a.png", cv2.cvtColor(picture_with_square(1, 1), cv2.COLOR_BGR2BGRA))
    save("in/sub/grey.png", picture_with_square(1, 0)[..., 0])
    Path("in/broken.jpg").write_bytes(b"no picture")
    Path("in/empty.png").touch()
    assert detect("in", "--batch-size", "2") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "in/broken.jpg" in errors[0]
    assert "in/empty.png" in errors[1]
    assert [line["source"] for line in lines()] == ["in/a.jpg", "in/sub/a.png", "in/sub/grey.png"]
    boxes = [line["detections"][0]["box_xyxy"][:2] for line in lines()]
    assert boxes == [[0.0, 0.0], [32.0, 32.0], [0.0, 32.0]]
    for name in ("a.jpg", "sub/a.png", "sub/grey.png"):
        assert cv2.imread(f"out/{name}").shape == (64, 96, 3)
    assert not Path("out/broken.jpg").exists()


def test_a_video_keeps_its_frames_size_and_rate(capsys):
    make_video("road.mp4", 7, 29.83)
    assert detect("road.mp4", "--batch-size", "3") == 0
    capture = cv2.VideoCapture("out/road.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(29.83, abs=1e-3)
    frames = [capture.read()[1] for _ in range(7)]
    assert not capture.read()[0]
    assert frames[0].shape == (64, 96, 3)
    assert [line["frame"] for line in lines()] == list(range(7))
    assert lines()[6]["time_s"] == pytest.approx(6 / 29.83, abs=1e-5)
    assert [line["detections"][0]["box_xyxy"][0] for line in lines()] == [
        0.0,
        32.0,
        64.0,
        0.0,
        32.0,
        64.0,
        0.0,
    ]
    assert "7 frames in" in capsys.readouterr().out


def test_json_is_one_document_with_the_summary_and_the_lines(capsys):
    save("in/a.png", picture_with_square(0, 0))
    make_video("in/v.mp4", 2)
    assert detect("in", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["pictures"], document["frames"], document["detections"]) == (1, 2, 3)
    assert document["results"] == lines()
    assert document["failed"] == []
    assert {"model", "output", "seconds", "fps"} <= set(document)


def test_sources_that_would_share_a_name_get_numbers():
    make_video("in/v.mp4", 2)
    make_video("in/v.m4v.mp4", 3)
    Path("in/v.m4v.mp4").rename("in/v.m4v")
    assert detect("in") == 0
    counts = [cv2.VideoCapture(f"out/{name}.mp4").get(cv2.CAP_PROP_FRAME_COUNT) for name in ("v", "v-2")]
    assert counts == [3, 2]


def test_a_video_that_declares_more_frames_than_it_holds_gives_those_it_holds(capsys):
    writer = cv2.VideoWriter("v.avi", cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for i in range(20):
        writer.write(picture_with_square(0, i % 3))
    writer.release()
    whole = Path("v.avi").read_bytes()
    Path("v.avi").write_bytes(whole[: len(whole) * 6 // 10])
    assert detect("v.avi") == 0
    count = len(lines())
    assert 5 < count < 15
    assert cv2.VideoCapture("out/v.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == count
    told = capsys.readouterr().err
    assert "declares 20 frames" in told
    assert str(count) in told


def test_a_broken_video_among_others_is_told_and_the_others_are_done(capsys):
    make_video("in/b.mp4", 2)
    Path("in/a.mp4").write_bytes(b"no video")
    assert detect("in") == 2
    assert "error: in/a.mp4: not a video" in capsys.readouterr().err
    assert len(lines()) == 2


def test_ctrl_c_keeps_what_is_done(finder, capsys):
    make_video("v.mp4", 9)
    finder.interrupt_at = 3
    assert detect("v.mp4", "--batch-size", "2") == 130
    assert [line["frame"] for line in lines()] == [0, 1, 2, 3]
    assert cv2.VideoCapture("out/v.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert sorted(path.name for path in Path("out").iterdir()) == ["detections.jsonl", "v.mp4"]
    assert "4 frames in" in capsys.readouterr().out


def test_max_seconds_ends_a_video():
    make_video("v.mp4", 9, rate=10)
    assert detect("v.mp4", "--max-seconds", "0.35") == 0
    assert [line["frame"] for line in lines()] == [0, 1, 2, 3]  # 0.3 s is the last before 0.35 s


class Camera:
    """A camera that gives frames for ever, and says nothing of itself."""

    def __init__(self, address: object):
        self.address = address

    def isOpened(self) -> bool:
        return self.address == 1

    def get(self, _: int) -> float:
        return -1.0

    def read(self) -> tuple[bool, np.ndarray]:
        return True, picture_with_square(1, 1)

    def release(self) -> None:
        pass


def test_a_camera_runs_until_ctrl_c(finder, monkeypatch, capsys):
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda x: Camera(x) if isinstance(x, int) else real(x))
    finder.interrupt_at = 4
    assert detect("1") == 130
    assert [(line["source"], line["frame"]) for line in lines()] == [("1", 0), ("1", 1), ("1", 2)]
    assert cv2.VideoCapture("out/camera-1.mp4").get(cv2.CAP_PROP_FRAME_COUNT) >= 3
    assert detect("2") == 2
    assert "error: camera 2: cannot be opened" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.jpg"], "error: nowhere.jpg: no such picture"),
        (["in/a.png", "--min-score", "2"], "error: --min-score: expected a number from 0 to 1, found 2.0"),
        (["in/a.png", "--max-detections", "0"], "error: --max-detections: expected 1 or more, found 0"),
        (["in/a.png", "--device", "tpu"], "error: --device"),
        (["in/a.png", "--output", "in"], "error: --output in: expected another folder"),
    ],
)
def test_mistakes_end_with_2_and_a_line(words, told, capsys):
    save("in/a.png", picture_with_square(0, 0))
    assert run_command("detect", ["squares.pt", *words]) == 2
    assert told in capsys.readouterr().err


def test_the_default_output_never_overwrites_an_earlier_run():
    save("a.png", picture_with_square(0, 0))
    for _ in range(2):
        assert run_command("detect", ["squares.pt", "a.png"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["detect", "detect-2"]


def test_predict_takes_paths_arrays_and_lists():
    save("a.png", picture_with_square(0, 2))
    detector = load_detector("squares.pt")
    assert isinstance(detector, Predictor)
    assert (detector.class_names, detector.category_ids) == (("disc", "bar"), (3, 17))
    assert detector.size_hw == (64, 96)
    assert detector.device == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = [[64.0, 0.0, 96.0, 32.0]]
    assert detector.predict("a.png").box_xyxy.tolist() == expected
    assert detector.predict(Path("a.png")).class_id.tolist() == [0]
    several = detector.predict([picture_with_square(0, 2), "a.png"] * 10)  # more than one batch
    assert [found.box_xyxy.tolist() for found in several] == [expected] * 20
    assert detector.predict([]) == []


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (np.zeros((5, 5), np.uint8), r"\(5, 5\) uint8"),
        (np.zeros((5, 5, 3), np.float32), "float32"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
        ([7], "int"),
        (7, "int"),
    ],
)
def test_predict_refuses_what_is_no_picture(picture, told):
    with pytest.raises(ValueError, match=told):
        load_detector("squares.pt").predict(picture)


def test_thresholds_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="min_score"):
        load_detector("squares.pt", min_score=1.5)


@pytest.mark.e2e
def test_the_tool_runs_a_real_network(tmp_path):
    save("a.png", picture_with_square(0, 0))
    tool = [sys.executable, str(ROOT / "tools/detect.py"), str(CONFIG), "a.png", "--json", "input.size=64"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pictures"] == 1
    assert (tmp_path / "runs/detect/a.png").is_file()
