"""Commands on a pseudo-terminal of 60, 80 and 120 columns: no line is longer, nothing is cut, colour can be off."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from cspdet.benchmark.rows import BenchmarkRow, BenchmarkSpec, EngineInfo, Timing
from cspdet.cli.main import COMMAND_HELP, main
from cspdet.datasets.synthetic.dataset import make_shapes

if sys.platform == "win32":
    pytest.skip("Windows has no pseudo-terminals", allow_module_level=True)
import fcntl
import pty
import termios

ROOT = Path(__file__).parents[2]
CODES = re.compile(r"\x1b\[[0-9;]*m")
SMALL = ("input.size=64", "train.batch_size=4", "train.workers=0", "train.epochs=1", "train.precision=fp32")


@contextlib.contextmanager
def pseudo_terminal(columns: int) -> Iterator[io.StringIO]:
    """stdout and stderr are a terminal; its text is complete after the context."""
    controller, device = pty.openpty()
    fcntl.ioctl(device, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    chunks: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # Linux reports the end as an error
            while chunk := os.read(controller, 65536):
                chunks.append(chunk)

    reader, text = threading.Thread(target=read), io.StringIO()
    reader.start()
    with (
        open(device, "w", encoding="utf-8") as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        yield text
    reader.join()
    os.close(controller)
    text.write(b"".join(chunks).decode("utf-8"))


def on_terminal(words: list[str], columns: int) -> str:
    with pseudo_terminal(columns) as text:
        assert main(words) == 0
    return text.getvalue()


def too_long(text: str, columns: int) -> list[str]:
    """The lines, and the states of progress bars, that are longer than the terminal; a long path stays whole."""
    lines = re.split("[\r\n]+", CODES.sub("", text))
    return [line for line in lines if cell_len(line) > columns and "/" not in line.split()[0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a data set, `shapes`, that has images and a video."""
    path = tmp_path_factory.mktemp("terminal")
    make_shapes(path / "shapes", images=8, size=64, seed=0)
    return path


@pytest.fixture(autouse=True)
def environment(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture(scope="module")
def training(folder) -> str:
    """What `train` prints on a terminal of 80 columns; the run is in `run`."""
    config = str(ROOT / "configs/yolov3_tiny_prn.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TERM", "xterm")
        patch.delenv("COLUMNS", raising=False)
        patch.setattr("cspdet.io.progress.REDRAW_INTERVAL_S", 0.0)
        return on_terminal(["train", config, "data=shapes/shapes.yaml", *SMALL, "--output", "run"], 80)


def test_train_keeps_what_matters_at_80_columns(training):
    assert too_long(training, 80) == []
    bars = [line for line in re.split("[\r\n]+", training) if line.startswith("epoch 1/1 ")]
    assert re.fullmatch(r"epoch 1/1 100%\|.+\| loss [\d.]+, \d:\d\d left, [\d.]+ images/s(, .*)?", bars[-1])
    (first, second) = re.search(r"(epoch 1 of 1: .*)\r\n(.*)\r\n", training).groups()
    assert re.fullmatch(r"epoch 1 of 1: loss [\d.]+, AP [\d.]+, AP50 [\d.]+, [\d.]+ images/s", first)
    assert re.fullmatch(r" {15}\(box [\d.]+, objectness [\d.]+, class [\d.]+, data wait \d+%\)", second)
    assert "tensorboard --logdir ." in " ".join(training.split())


def benchmark_row(name: str) -> BenchmarkRow:
    info = EngineInfo(name, "onnxruntime", "fp32", (416, 416), 2, "a CPU of some kind", "detection", True, {"a": "1"})
    spec = BenchmarkSpec(name, "onnxruntime")
    return BenchmarkRow(spec, info, Timing((1234.5,)), Timing((2345.6,)), 12345.0, 300.0, 65.8, 200.0)


CONFIGS = ["yolov3_tiny_prn", "classification/peleenet"]
COMMANDS = {
    "info": ["info", *CONFIGS],
    "info --layers": ["info", CONFIGS[0], "--layers"],
    "eval": ["eval", "run", "--output", "out"],
    "benchmark": ["benchmark", *CONFIGS],
    "check-data": ["check-data", "shapes/shapes.yaml", "--fast"],
    "configs": ["configs"],
    "zoo": ["zoo"],
    "analyze": ["analyze", "run", "--no-report", "--output", "analysis"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_tables_fit_and_nothing_is_cut(name, training, monkeypatch, capsys):
    rows = [benchmark_row("yolov3_tiny_prn"), benchmark_row("cspresnext50_panet_spp")]
    monkeypatch.setattr("cspdet.benchmark.runner.run_benchmarks", lambda *_: (rows, []))
    assert main(COMMANDS[name]) == 0
    piped = capsys.readouterr().out
    assert "\x1b" not in piped
    for columns in (60, 80, 120):
        text = on_terminal(COMMANDS[name], columns)
        assert too_long(text, columns) == []
        missing = set(piped.split()) - set(CODES.sub("", text).split())
        assert {word for word in missing if len(word) <= 16} == set()  # longer names are divided in narrow columns
    assert "\x1b[1m" in text or name == "analyze"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in on_terminal(COMMANDS[name], 80)


@pytest.mark.parametrize("command", ["info", "eval", "check-data", "configs"])
def test_json_is_the_same_on_a_terminal(command, training):
    document = json.loads(on_terminal([*COMMANDS[command], "--json", "--quiet"], 80).replace("\r\n", ""))
    assert document


def test_detect_has_a_line_per_image_and_a_bar_per_video(training, monkeypatch):
    monkeypatch.setattr("cspdet.io.progress.REDRAW_INTERVAL_S", 0.0)
    sources = ["shapes/val", *map(str, sorted(Path("shapes").glob("*.mp4")))]
    text = on_terminal(
        ["detect", "run", *sources, "--output", "found", "--min-score", "0.01", "--backend", "torch"], 80
    )
    assert too_long(text, 80) == []
    text = text.replace("\r", "\n")
    images = re.findall(r"^(\S+)\.(?:jpg|png) 64x64: (.*), \d+ ms$", text, re.MULTILINE)
    assert len(images) == len(list(Path("shapes/val").iterdir()))
    (frames,) = re.findall(r"^\S+\.mp4 \d+x\d+: (\d+) frames, [\d.]+ per second; ", text, re.MULTILINE)
    assert f"/{frames} frames, " in text
    assert "\x1b" not in text
    quiet = on_terminal(["detect", "run", "shapes/val", "--output", "quiet", "--quiet"], 80)
    assert " ms\r\n" not in quiet


def test_anchors_has_one_long_line_the_override(training):
    text = on_terminal(["anchors", "shapes/shapes.yaml", "--config", "csppelee_efm"], 60)
    (override,) = too_long(text, 60)
    assert override.strip().startswith("'model.head.anchors=[[[")


@pytest.mark.parametrize("command", COMMAND_HELP)
def test_the_help_fits(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
