"""`detect` and `load_detector`: what is found, written and told, for every kind of source."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from engine_data import small_detector, write_checkpoint
from evaluation_data import CONFIG, SquareFinder, image_with_square, square_model
from PIL import Image
from video_data import FakeCapture, frames_of, h264_video, raw_video, turn, write_video

from cspdet import load_detector
from cspdet.cli.main import run_command
from cspdet.inference.predictor import Predictor
from cspdet.letterbox import Letterbox
from cspdet.structures import Detections

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SquareFinder:
    """The command finds white squares, and runs in an empty folder."""
    loaded = square_model()
    monkeypatch.setattr("cspdet.checkpoints.loading.load_model", lambda *_, **__: loaded)
    monkeypatch.chdir(tmp_path)
    Path("squares.pt").touch()
    return loaded.network  # type: ignore[return-value]


def save(path: str, image: np.ndarray) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(path, image)


def make_video(path: str, frames: int, rate: float = 12.5) -> None:
    """A white square that goes one cell to the right with each frame, round and round."""
    write_video(Path(path), (image_with_square(0, i % 3) for i in range(frames)), rate)


def lines(folder: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "detections.jsonl").read_text().splitlines()]


def detect(*words: str) -> int:
    return run_command("detect", ["squares.pt", *words, "--output", "out"])


def test_an_image_gives_an_annotated_copy_and_a_line(capsys):
    save("in/street.png", image_with_square(1, 2))
    before = Path("in/street.png").read_bytes()
    assert detect("in/street.png") == 0
    (line,) = lines()
    (found,) = line.pop("detections")
    assert line == {"source": "in/street.png", "frame": None, "time_s": None, "width": 96, "height": 64}
    assert found.pop("score") == pytest.approx(0.99991, abs=1e-5)
    assert found == {"box_xyxy": [64.0, 32.0, 96.0, 64.0], "class_id": 0, "class_name": "disc", "category_id": 3}
    drawn = cv2.imread("out/street.png")
    assert drawn.shape == (64, 96, 3)
    assert (drawn != cv2.imread("in/street.png")).any()
    assert Path("in/street.png").read_bytes() == before
    assert "1 image in" in capsys.readouterr().out


def test_images_that_reach_the_limit_are_counted(capsys):
    save("in/white.png", np.full((64, 96, 3), 255, np.uint8))
    save("in/square.png", image_with_square(1, 2))
    assert detect("in", "--max-detections", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["limited"] == 1
    for words in (["--max-detections", "2"], ["--max-detections", "2", "--tile", "32"]):
        assert detect("in", *words) == 0
        assert "images or frames with 2 detections, the limit: " in capsys.readouterr().out
    assert detect("in") == 0
    assert "the limit" not in capsys.readouterr().out


def test_boxes_come_in_pixels_of_the_original():
    save("big.png", image_with_square(0, 1, scale=4))  # 256x384, a quarter of it fills the input of 64x96
    save("slim.png", image_with_square(1, 0)[:, :32])  # 64x32, in the middle third of the input
    assert detect("*.png") == 0
    boxes = [line["detections"][0]["box_xyxy"] for line in lines()]
    assert boxes == [[128.0, 0.0, 256.0, 128.0], [0.0, 32.0, 32.0, 64.0]]


def test_boxes_are_cut_to_the_image():
    found = Detections(torch.tensor([[-5.0, 10, 200, 99]]), torch.tensor([0.5]), torch.tensor([0]))
    # 30x40 pixels at twice the size, 8 pixels from the left: x (200 - 8) / 2 = 96 and y 99 / 2 lie outside
    cut = found.to_image(Letterbox(2.0, 2.0, 8, 0), (30, 40))
    assert cut.box_xyxy.tolist() == [[0.0, 5.0, 40.0, 30.0]]


def test_folders_keep_their_structure_and_an_unreadable_image_is_skipped(capsys):
    save("in/a.jpg", image_with_square(0, 0))
    save("in/sub/a.png", cv2.cvtColor(image_with_square(1, 1), cv2.COLOR_BGR2BGRA))
    save("in/sub/grey.png", image_with_square(1, 0)[..., 0])
    Path("in/broken.jpg").write_bytes(b"no image")
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


def test_a_copy_that_cannot_be_written_skips_one_image(capsys):
    long_name = "n" * 251 + ".jpg"
    for name in ("a.jpg", "b.jpg", long_name, "z.jpg"):
        save(f"in/{name}", image_with_square(0, 0))
    Path("out/b.jpg").mkdir(parents=True)
    assert detect("in") == 2
    assert [line["source"] for line in lines()] == ["in/a.jpg", "in/b.jpg", f"in/{long_name}", "in/z.jpg"]
    assert all(cv2.imread(f"out/{name}") is not None for name in ("a.jpg", long_name, "z.jpg"))
    assert capsys.readouterr().err.endswith("\nerror: out/b.jpg: cannot be written: Is a directory\n")


def test_names_of_255_bytes_get_label_files(capsys):
    image, video = "n" * 251 + ".jpg", "v" * 251 + ".mp4"
    save(f"in/{image}", image_with_square(0, 0))
    make_video("v.mp4", 2)
    Path("v.mp4").rename(f"in/{video}")
    assert detect("in", "--no-draw", "--save-as", "yolo", "--codec", "mp4v") == 0
    labels = sorted(path.name for path in Path("out/labels").iterdir())
    assert labels == ["n" * 251 + ".txt", *("v" * 244 + f"_{i:06d}.txt" for i in range(2))]
    assert detect("in", "--no-draw", "--save-as", "yolo", "--codec", "mp4v") == 2
    assert capsys.readouterr().err.count("it is kept: expected another output") == 4


def test_an_image_that_no_encoder_takes_is_reported(monkeypatch, capsys):
    save("in/a.png", image_with_square(0, 0))
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    assert detect("in") == 2
    assert len(lines()) == 1
    assert "in/a.png: 96x64 pixels cannot be written as .png" in capsys.readouterr().err


def test_a_run_without_results_keeps_those_of_an_earlier_run(finder, monkeypatch, capsys):
    save("in/a.png", image_with_square(0, 0))
    fake_cameras(monkeypatch, {})
    assert detect("in") == 0
    earlier = {path.name: path.read_bytes() for path in Path("out").iterdir()}

    assert detect("2") == 2
    assert "error: camera 2: cannot be opened" in capsys.readouterr().err
    Path("in2").mkdir()
    Path("in2/a.png").write_bytes(b"no picture")
    assert detect("in2") == 2
    monkeypatch.setattr(finder, "forward", lambda images: (_ for _ in ()).throw(MemoryError("no memory")))
    save("in3/b.png", image_with_square(0, 0))
    with pytest.raises(MemoryError):
        detect("in3")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == earlier


def test_results_of_earlier_runs_are_replaced_in_any_order(codec):
    for name in ("a.png", "b.jpg", "c.webp", "d.bmp", "e.tif"):
        save(f"in/{name}", image_with_square(0, 0))
    make_video("v.mp4", 2)
    for source in ("in", "v.mp4", "in", "in/a.png", "v.mp4", "in/b.jpg"):
        assert detect(source, "--codec", codec) == 0, source
    assert [line["source"] for line in lines()] == ["in/b.jpg"]
    assert not list(Path("out").glob(".*"))


@pytest.fixture(params=["mp4v", "h264"])
def codec(request: pytest.FixtureRequest) -> str:
    """Which of the two ways to write a video is taken."""
    if request.param == "h264":
        pytest.importorskip("av")
    return request.param


def test_a_video_keeps_its_frames_size_and_rate(codec, capsys):
    make_video("road.mp4", 7, 29.83)
    assert detect("road.mp4", "--batch-size", "3", "--codec", codec) == 0
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
    save("in/a.png", image_with_square(0, 0))
    make_video("in/v.mp4", 2)
    assert detect("in", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["images"], document["frames"], document["detections"]) == (1, 2, 3)
    assert document["results"] == lines()
    assert document["failed"] == []
    assert {"model", "output", "seconds", "fps", "dropped_frames"} <= set(document)
    assert list(document["stages_ms"]) == ["read", "detect", "draw", "write", "waiting"]
    assert document["stages_ms"]["detect"] > 0


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
        writer.write(image_with_square(0, i % 3))
    writer.release()
    whole = Path("v.avi").read_bytes()
    Path("v.avi").write_bytes(whole[: len(whole) * 6 // 10])
    assert detect("v.avi") == 0
    count = len(lines())
    assert 5 < count < 15
    assert cv2.VideoCapture("out/v.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == count
    message = capsys.readouterr().err
    assert "declares 20 frames" in message
    assert str(count) in message


def test_a_broken_video_is_reported_and_the_others_are_processed(capsys):
    make_video("in/b.mp4", 2)
    Path("in/a.mp4").write_bytes(b"no video")
    assert detect("in") == 2
    assert "error: in/a.mp4: not a video" in capsys.readouterr().err
    assert len(lines()) == 2


def test_ctrl_c_keeps_what_is_done(finder, codec, capsys):
    make_video("v.mp4", 9)
    finder.interrupt_at = 4  # the first pass warms up, two do a pair of frames each
    assert detect("v.mp4", "--batch-size", "2", "--codec", codec) == 130
    assert [line["frame"] for line in lines()] == [0, 1, 2, 3]
    assert cv2.VideoCapture("out/v.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert sorted(path.name for path in Path("out").iterdir()) == ["detections.jsonl", "v.mp4"]
    assert "4 frames in" in capsys.readouterr().out


def test_max_seconds_ends_a_video():
    make_video("v.mp4", 9, rate=10)
    assert detect("v.mp4", "--max-seconds", "0.35") == 0
    assert [line["frame"] for line in lines()] == [0, 1, 2, 3]  # 0.3 s is the last before 0.35 s


def test_an_animated_image_is_processed_as_a_video_and_a_damaged_one_is_counted(capsys):
    images = [Image.fromarray(image_with_square(0, i % 3)) for i in range(4)]
    Path("in").mkdir()
    images[0].save("in/a.webp", save_all=True, append_images=images[1:], duration=80, lossless=True)
    images[0].save("in/b.gif")
    data = bytearray(cv2.imencode(".jpg", image_with_square(1, 1, scale=8))[1].tobytes())
    data[-900:-2] = bytes(898)
    Path("in/c.jpg").write_bytes(data)
    assert detect("in") == 2
    assert [(Path(line["source"]).name, line["frame"], line["time_s"]) for line in lines()] == [
        ("b.gif", None, None),
        ("a.webp", 0, 0.0),
        ("a.webp", 1, 0.08),
        ("a.webp", 2, 0.16),
        ("a.webp", 3, 0.24),
    ]
    assert [line["detections"][0]["box_xyxy"][0] for line in lines()[1:]] == [0.0, 32.0, 64.0, 0.0]
    assert len(frames_of(Path("out/a.mp4"))) == 4
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: in/c.jpg: damaged JPEG: ")


def test_a_video_whose_size_changes_says_so(capsys):
    pytest.importorskip("av")
    wide, tall = image_with_square(0, 1), np.ascontiguousarray(np.rot90(image_with_square(0, 1)))
    parts = [raw_video(Path(f"{i}.ts"), [image] * 3, 10, "mpegts") for i, image in enumerate((wide, tall))]
    Path("v.ts").write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    assert detect("v.ts") == 0
    assert {(line["width"], line["height"]) for line in lines()} == {(96, 64), (64, 96)}
    message = capsys.readouterr().err
    assert "v.ts: the size changes to 64x96 at frame 3; the written video keeps 96x64, with black borders" in message
    assert message.count("size changes") == 1


def test_the_password_of_a_stream_is_neither_printed_nor_written(monkeypatch, capsys):
    url = "rtsp://user:Secret99@host/cam?token=Secret99"
    captures = [FakeCapture([image_with_square(1, 1)] * 3)]
    closed = FakeCapture([])
    closed.isOpened = lambda: False  # type: ignore[method-assign]
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: captures.pop() if captures else closed)
    monkeypatch.setattr("cspdet.inference.video.live.INITIAL_BACKOFF_S", 0.01)
    assert detect(url, "--reconnect", "2", "--no-draw") == 2
    assert {line["source"] for line in lines()} == {"rtsp://***@host/cam?token=***"}
    assert detect(url, "--json") == 2
    said = "".join(capsys.readouterr())
    assert "error: rtsp://***@host/cam?token=***: this stream cannot be opened" in said
    assert "reconnecting" in said
    assert "Secret99" not in said


def fake_cameras(monkeypatch: pytest.MonkeyPatch, cameras: dict[int, FakeCapture]) -> None:
    """These cameras are there; files are opened as ever."""
    real = cv2.VideoCapture
    closed = FakeCapture([])
    closed.isOpened = lambda: False  # type: ignore[method-assign]
    monkeypatch.setattr(cv2, "VideoCapture", lambda x: cameras.get(x, closed) if isinstance(x, int) else real(x))


def test_a_camera_runs_until_ctrl_c(finder, codec, monkeypatch, capsys):
    frames = [image_with_square(1, 1)] * 60_000
    # at its own pace, as cameras do: without pauses, all frames would be gone before a busy machine has looked at three
    fake_cameras(monkeypatch, {1: FakeCapture(frames, before_read=lambda _: time.sleep(0.005))})
    finder.interrupt_at = 5  # the first pass warms up
    assert detect("1", "--codec", codec) == 130
    assert [(line["source"], line["frame"]) for line in lines()] == [("1", 0), ("1", 1), ("1", 2)]
    assert len(frames_of(Path("out/camera-1.mp4"))) >= 3
    assert detect("2") == 2
    assert "error: camera 2: cannot be opened" in capsys.readouterr().err


def test_a_camera_that_disappears_leaves_its_video_and_an_error(codec, monkeypatch, capsys):
    fake_cameras(monkeypatch, {1: FakeCapture([image_with_square(1, 1)] * 3)})
    assert detect("1", "--codec", codec, "--reconnect", "0") == 2
    assert "error: camera 1: lost after 3 frames" in capsys.readouterr().err
    assert 1 <= len(lines()) <= 3
    assert len(frames_of(Path("out/camera-1.mp4"))) >= len(lines())


def test_classes_are_picked_by_name_or_id(capsys):
    save("a.png", image_with_square(0, 0))
    assert detect("a.png", "--classes", "disc,17") == 0
    assert len(lines()[0]["detections"]) == 1
    assert detect("a.png", "--classes", "bar") == 0
    assert lines()[0]["detections"] == []
    assert detect("a.png", "--classes", "disk") == 2
    assert "no class 'disk' (did you mean 'disc'?); its classes are disc, bar" in capsys.readouterr().err


def test_tiles_find_squares_that_are_too_small_for_the_whole():
    # 320x480 is five times the input of 64x96: a square of 32 pixels is seen as one of 6.4, which is no white cell.
    image = np.full((320, 480, 3), 20, np.uint8)
    image[256:288, 384:416] = 255
    save("big.png", image)
    assert detect("big.png") == 0
    assert lines()[0]["detections"] == []
    # tiles of 64x96 that share nothing lie on a grid of 64 and 96 pixels, whose cells of 32 the square is one of
    assert detect("big.png", "--tile", "auto", "--tile-overlap", "0") == 0
    (found,) = lines()[0]["detections"]
    assert found["box_xyxy"] == [384.0, 256.0, 416.0, 288.0]
    assert (lines()[0]["width"], lines()[0]["height"]) == (480, 320)


def test_records_alone(capsys):
    make_video("in/v.mp4", 3)
    save("in/a.png", image_with_square(0, 0))
    assert detect("in", "--no-draw") == 0
    assert [path.name for path in Path("out").iterdir()] == ["detections.jsonl"]
    assert [line["frame"] for line in lines()] == [None, 0, 1, 2]
    assert "ms per image or frame: read" in capsys.readouterr().out


def test_every_nth_frame(codec):
    make_video("v.mp4", 8, rate=10)
    assert detect("v.mp4", "--stride", "3", "--codec", codec) == 0
    assert [(line["frame"], line["time_s"]) for line in lines()] == [(0, 0.0), (3, 0.3), (6, 0.6)]
    assert len(frames_of(Path("out/v.mp4"))) == 3
    assert cv2.VideoCapture("out/v.mp4").get(cv2.CAP_PROP_FPS) == pytest.approx(10 / 3, abs=2e-3)


def test_what_is_drawn_can_be_chosen():
    save("a.png", image_with_square(0, 1, scale=4))
    drawn = []
    for words in ([], ["--hide-labels"], ["--hide-labels", "--line-width", "9"]):
        assert detect("a.png", *words) == 0
        drawn.append(cv2.imread("out/a.png"))
    labelled, plain, wide = ((image != cv2.imread("a.png")).any(axis=2) for image in drawn)
    assert labelled.sum() > plain.sum() + 500, "the label"
    assert plain[64, 128:256].sum() == 2, "a line of one pixel on either side"
    assert wide[64, 128:256].sum() == 18


def test_the_speed_stands_on_the_frames():
    make_video("v.mp4", 3)
    brightest = []
    for words in ([], ["--show-speed"]):
        assert detect("v.mp4", *words, "--codec", "mp4v", "--classes", "bar") == 0
        brightest.append(int(frames_of(Path("out/v.mp4"))[2][:24, 64:].min()))  # frame 2: white square at column 2
    assert brightest[0] > 200 > 60 > brightest[1], "letters on black"


def test_a_mot_file_numbers_frames_from_1():
    make_video("v.mp4", 3)
    assert detect("v.mp4", "--mot", "tracks/v.txt") == 0
    first, _, third = Path("tracks/v.txt").read_text().splitlines()
    assert first.startswith("1,-1,0.00,0.00,32.00,32.00,0.9999")
    assert third.startswith("3,-1,64.00,0.00,32.00,32.00,0.9999")


def test_images_are_the_frames_of_a_mot_file_in_their_order():
    for i in range(3):
        save(f"in/{i}.png", image_with_square(0, i))
    assert detect("in", "--mot", "v.txt", "--batch-size", "2") == 0
    assert [line.split(",")[:3] for line in Path("v.txt").read_text().splitlines()] == [
        ["1", "-1", "0.00"],
        ["2", "-1", "32.00"],
        ["3", "-1", "64.00"],
    ]


def test_track_ids_stand_in_the_records(monkeypatch):
    class One:
        def __init__(self, frame_rate: float, min_score: float):
            assert (frame_rate, min_score) == (12.5, 0.25)

        def update(self, found: Detections) -> list[int]:
            return [7] * len(found)

    monkeypatch.setattr("cspdet.inference.tracking.check_installed", lambda: None)
    monkeypatch.setattr("cspdet.inference.video.processor.Tracker", One)
    make_video("v.mp4", 2)
    assert detect("v.mp4", "--track", "--mot", "v.txt") == 0
    assert [line["detections"][0]["track_id"] for line in lines()] == [7, 7]
    assert [line.split(",")[1] for line in Path("v.txt").read_text().splitlines()] == ["7", "7"]


def test_a_phone_video_comes_out_upright(codec):
    pytest.importorskip("av")
    turn(h264_video(Path("phone.mp4"), [np.ascontiguousarray(np.rot90(image_with_square(1, 0)))] * 3))
    assert detect("phone.mp4", "--codec", codec) == 0
    assert {(line["width"], line["height"]) for line in lines()} == {(96, 64)}
    assert lines()[0]["detections"][0]["box_xyxy"] == [0.0, 32.0, 32.0, 64.0]
    assert frames_of(Path("out/phone.mp4"))[0].shape == (64, 96, 3)


def test_a_video_of_varying_rate_keeps_its_times():
    av = pytest.importorskip("av")
    times = [0, 40, 200, 210, 500]
    h264_video(Path("v.mp4"), [image_with_square(0, i % 3) for i in range(5)], times_ms=times)
    assert detect("v.mp4") == 0
    assert [line["time_s"] for line in lines()] == [t / 1000 for t in times]
    with av.open("out/v.mp4") as container:
        assert [round(1000 * frame.time) for frame in container.decode(video=0)] == times


def test_a_video_without_frames_is_reported(capsys):
    make_video("v.mp4", 2)
    data = Path("v.mp4").read_bytes()
    Path("v.mp4").write_bytes(
        data[: data.index(b"mdat") - 4] + b"\x00\x00\x00\x08mdat" + data[data.index(b"moov") - 4 :]
    )
    assert detect("v.mp4") == 2
    assert "error: v.mp4: no frame can be decoded, though it declares 2" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["detections.jsonl"]


def test_an_error_while_writing_ends_the_run_and_keeps_no_half_video(monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cspdet.inference.video.writer.Mpeg4Writer.write", full)
    make_video_before = Path("v.avi")
    writer = cv2.VideoWriter(
        str(make_video_before), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64)
    )
    for i in range(60):
        writer.write(image_with_square(0, i % 3))
    writer.release()
    assert detect("v.avi", "--codec", "mp4v") == 2
    assert "error: out/v.mp4: cannot be written: No space left on device" in capsys.readouterr().err
    assert not list(Path("out").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jpg"], "error: nowhere.jpg: no such image"),
        (["in/a.png", "--min-score", "2"], "error: --min-score: expected a number from 0 to 1, found 2.0"),
        (["in/a.png", "--vote-iou", "-1"], "error: --vote-iou: expected a number from 0 to 1, found -1.0"),
        (["in/a.png", "--max-detections", "0"], "error: --max-detections: expected 1 or more, found 0"),
        (["in/a.png", "--device", "tpu"], "error: --device"),
        (["in/a.png", "--tile", "many"], "error: --tile: expected auto, or 32 pixels or more, found many"),
        (["in/a.png", "--tile", "8"], "error: --tile: expected auto, or 32 pixels or more, found 8"),
        (["in/a.png", "--tile-overlap", "1"], "error: --tile-overlap: expected a number from 0 to 0.9, found 1.0"),
        (["in/a.png", "--stride", "0"], "error: --stride: expected 1 or more, found 0"),
        (["in/a.png", "--reconnect", "-1"], "error: --reconnect: expected 0 or more, found -1"),
        (["in/a.png", "--line-width", "0"], "error: --line-width: expected 1 to 100, found 0"),
        (["in", "--mot", "x.txt"], "error: --mot: expected one video or a folder of images, found 2 sources"),
        (["in/a.png", "--output", "in"], "error: --output in: expected another folder"),
    ],
)
def test_mistakes_end_with_2_and_a_line(words, message, capsys):
    save("in/a.png", image_with_square(0, 0))
    Path("in/b.mp4").touch()
    assert run_command("detect", ["squares.pt", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_default_output_never_overwrites_an_earlier_run():
    save("a.png", image_with_square(0, 0))
    for _ in range(2):
        assert run_command("detect", ["squares.pt", "a.png"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["detect", "detect-2"]


def test_predict_takes_paths_arrays_and_lists():
    save("a.png", image_with_square(0, 2))
    detector = load_detector("squares.pt")
    assert isinstance(detector, Predictor)
    assert (detector.class_names, detector.category_ids) == (("disc", "bar"), (3, 17))
    assert detector.size_hw == (64, 96)
    assert detector.device == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = [[64.0, 0.0, 96.0, 32.0]]
    assert detector.predict("a.png").box_xyxy.tolist() == expected
    assert detector.predict(Path("a.png")).class_id.tolist() == [0]
    several = detector.predict([image_with_square(0, 2), "a.png"] * 10)  # more than one batch
    assert [found.box_xyxy.tolist() for found in several] == [expected] * 20
    assert detector.predict([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
        ([7], "int"),
        (7, "int"),
    ],
)
def test_predict_refuses_other_inputs_than_images(image, message):
    with pytest.raises(ValueError, match=message):
        load_detector("squares.pt").predict(image)


def test_thresholds_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="min_score"):
        load_detector("squares.pt", min_score=1.5)


@pytest.mark.e2e
def test_the_tool_runs_a_real_network(tmp_path):
    save("a.png", image_with_square(0, 0))
    tool = [sys.executable, str(ROOT / "tools/detect.py"), str(CONFIG), "a.png", "--json", "input.size=64"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 1
    assert (tmp_path / "runs/detect/a.png").is_file()


def hear_ctrl_c() -> None:
    """Tests that a shell started in the background ignore it, and whatever they start would, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.e2e
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_a_playable_video_and_its_lines(tmp_path, signum, code):
    make_video(str(tmp_path / "v.mp4"), 3000)
    # PyTorch takes a minute or more for so many frames: the signal comes in time on a busy machine too
    words = [str(CONFIG), "v.mp4", "--output", "out", "--backend", "torch", "input.size=64"]
    tool = [sys.executable, str(ROOT / "tools/detect.py"), *words]
    process = subprocess.Popen(
        tool, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=hear_ctrl_c
    )
    written = tmp_path / "out/detections.jsonl"
    while process.poll() is None and not (written.exists() and written.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signum)
    said, message = process.communicate(timeout=240)
    assert process.returncode == code, message
    assert "Traceback" not in message
    count = len(written.read_text().splitlines())
    assert 0 < count < 3000
    assert f"{count} frames in" in said
    assert len(frames_of(tmp_path / "out/v.mp4")) == count
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["detections.jsonl", "v.mp4"]


@pytest.mark.e2e
def test_frames_of_a_file_keep_their_order_where_several_are_in_work_at_once(tmp_path):
    pytest.importorskip("openvino")
    make_video(str(tmp_path / "v.mp4"), 30)
    model = write_checkpoint(tmp_path / "small.pt", small_detector())
    tool = [sys.executable, str(ROOT / "tools/detect.py"), str(model), "v.mp4", "--json", "--no-draw"]
    scores = {}
    for backend in ("torch", "openvino"):
        words = [*tool, "--backend", backend, "--output", backend]
        environment = os.environ | {"OMP_NUM_THREADS": "2"}  # as many frames at once
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)["results"]
        assert [line["frame"] for line in results] == list(range(30))
        scores[backend] = [[detection["score"] for detection in line["detections"]] for line in results]
    assert sum(map(len, scores["torch"])) > 100
    for found, expected in zip(scores["openvino"], scores["torch"], strict=True):
        assert found == pytest.approx(expected, abs=1e-3)
