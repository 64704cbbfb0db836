"""What can happen to a run while it trains, and to its folder: it goes on, or stops in a line and loses nothing."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults_data import (
    BATCHES,
    CONFIG,
    PROOF,
    ROOT,
    SAVE_EACH_STEP,
    SMALL,
    TMP_FILES,
    children,
    errors,
    start,
    train,
    wait_until,
)  # fmt: skip
from torch import Tensor

from cspdet.datasets.synthetic.dataset import make_shapes
from cspdet.io.checkpoint import load_checkpoint
from cspdet.io.torch_file import _ErrorRecordingFile
from cspdet.models.detector import ComposedDetector

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes that it finds in /proc")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(folder, images=20, size=64, seed=0)
    return folder / "shapes.yaml"


@pytest.fixture(scope="module")
def words(shapes) -> list[str | Path]:
    """The command of the run that all tests disturb, without its folder."""
    return [CONFIG, f"data={shapes}", *SMALL]


@pytest.fixture(scope="module")
def straight(words, tmp_path_factory) -> Path:
    """The run that nobody touches."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert train(*words, "--output", folder) == 0
    return folder


@pytest.fixture(scope="module")
def one_epoch(words, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one_epoch") / "run"
    assert train(*words, "--output", folder, "--stop-after", "1") == 0
    return folder


@pytest.fixture
def stopped(one_epoch, tmp_path) -> Path:
    """A run that stopped after its first epoch, to be spoiled."""
    return Path(shutil.copytree(one_epoch, tmp_path / "run"))


@pytest.fixture
def at_batch(monkeypatch) -> Callable[[int, Callable[[Tensor], Tensor]], None]:
    """Have a function see, and change, the pictures of the training batch of that number, 1 for the first."""

    def arrange(number: int, change: Callable[[Tensor], Tensor], training: bool = True) -> None:
        forward, calls = ComposedDetector.forward, [0]

        def watched(model: ComposedDetector, images: Tensor) -> tuple[Tensor, ...]:
            calls[0] += model.training is training
            return forward(model, change(images) if model.training is training and calls[0] == number else images)

        monkeypatch.setattr(ComposedDetector, "forward", watched)

    return arrange


def after(action: Callable[[], object]) -> Callable[[Tensor], Tensor]:
    """The pictures as they are, once `action` is done."""

    def change(images: Tensor) -> Tensor:
        action()
        return images

    return change


def send(*numbers: signal.Signals) -> Callable[[Tensor], Tensor]:
    return after(lambda: [os.kill(os.getpid(), number) for number in numbers])


# --- loader processes and pictures ---------------------------------------------------------------


@pytest.mark.e2e
def test_a_loader_process_that_is_killed_ends_the_run_in_a_line(words, tmp_path):
    folder = tmp_path / "run"
    process = start(*words, "train.workers=2", "train.epochs=500", SAVE_EACH_STEP, "--output", folder)
    wait_until(lambda: (folder / "last.pt").exists() and len(children(process.pid)) >= 2, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 2, said
    (line,) = errors(said)
    assert line.startswith(
        "error: a loader process died, most often because memory or shared memory (/dev/shm) ran out"
    )
    assert PROOF.living(process.pid) == []
    done = load_checkpoint(folder / "last.pt").training["progress"]["epoch"]
    assert list(folder.glob(TMP_FILES)) == []
    assert train("--resume", folder, f"train.epochs={done + 1}", "train.workers=0") == 0


@pytest.mark.e2e
def test_loader_processes_end_when_their_training_process_is_killed(words, tmp_path):
    folder = tmp_path / "run"
    process = start(*words, "train.workers=2", "train.epochs=500", "--output", folder)
    wait_until(lambda: len(children(process.pid)) >= 2 and (folder / "train_batch.jpg").exists(), process)
    process.kill()
    process.communicate()
    end = time.monotonic() + 30  # they look every 5 seconds
    while PROOF.living(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert PROOF.living(process.pid) == []


@pytest.fixture
def own_shapes(shapes, tmp_path) -> Path:
    return Path(shutil.copytree(shapes.parent, tmp_path / "shapes")) / "shapes.yaml"


@pytest.mark.e2e
def test_an_image_that_disappears_ends_the_run_with_its_name(own_shapes, straight, tmp_path, at_batch, capsys):
    image, folder = own_shapes.parent / "train/000007.jpg", tmp_path / "run"
    at_batch(BATCHES + 1, after(lambda: image.rename(tmp_path / "elsewhere.jpg")))  # in the second epoch
    assert train(CONFIG, f"data={own_shapes}", *SMALL, "--output", folder) == 2
    assert errors(capsys.readouterr().err) == [f"error: {image}: no such image"]
    assert load_checkpoint(folder / "last.pt").training["progress"]["epoch"] >= 1
    (tmp_path / "elsewhere.jpg").rename(image)
    assert train("--resume", folder) == 0
    assert PROOF.read_metrics(folder) == PROOF.read_metrics(straight)
    assert (
        PROOF.differences(load_checkpoint(folder / "last.pt").training, load_checkpoint(straight / "last.pt").training)
        == []
    )


@pytest.mark.e2e
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_disappears_can_be_skipped_and_is_counted(own_shapes, tmp_path, at_batch, capsys, workers):
    at_batch(BATCHES + 1, after((own_shapes.parent / "train/000007.jpg").unlink))
    options = ["train.on_bad_image=skip", f"train.workers={workers}", "--output", tmp_path / "run"]
    assert train(CONFIG, f"data={own_shapes}", *SMALL, *options) == 0
    assert "1 unreadable images were replaced by others so far" in capsys.readouterr().err
    assert [line["images_seen"] for line in PROOF.read_metrics(tmp_path / "run")] == [20, 40, 60]


# --- numbers -------------------------------------------------------------------------------------


@pytest.fixture
def poisoned(words, tmp_path, at_batch, capsys) -> tuple[Path, str]:
    """A run one of whose batches turned into NaN on its way into the network, and what it said."""
    at_batch(2, lambda images: images * float("nan"))
    assert train(*words, "--output", tmp_path / "run") == 0
    return tmp_path / "run", capsys.readouterr().err


@pytest.mark.e2e
def test_a_step_that_is_not_finite_is_skipped_and_reported(poisoned):
    folder, said = poisoned
    assert "epoch 1: step skipped, its gradient is not finite (image ids of the last: " in said
    position = load_checkpoint(folder / "last.pt").training["progress"]
    assert (position["skipped_steps"], position["step"]) == (1, 3 * BATCHES)


@pytest.mark.e2e
def test_a_step_that_is_not_finite_leaves_nothing_in_weights_statistics_and_average(poisoned):
    last, best = (load_checkpoint(poisoned[0] / name) for name in ("last.pt", "best.pt"))
    for weights in (last.weights, last.training["model"], best.weights):
        assert [name for name, value in weights.items() if not torch.isfinite(value.float()).all()] == []


# --- the disk ------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_disk_too_full_for_a_checkpoint_stops_the_run_and_keeps_the_one_before(stopped, straight):
    before = (stopped / "last.pt").read_bytes()
    process = start("--resume", stopped, SAVE_EACH_STEP, limit=len(before) // 2)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 2, said
    (line,) = errors(said)
    assert f"{stopped}/last.pt: cannot be written: " in line
    assert "the file that was there before is kept" in line
    assert (stopped / "last.pt").read_bytes() == before
    assert list(stopped.glob(TMP_FILES)) == []
    assert train("--resume", stopped, "train.checkpoint_interval_minutes=10") == 0
    assert PROOF.compare_runs(stopped, straight) == []


@pytest.mark.e2e
@pytest.mark.parametrize("room", [8_192, 20_000_000])
def test_a_full_file_system_stops_the_run_in_a_line(stopped, tmp_path, room):
    """Not even the metrics fit, or best.pt does and last.pt does not: on a file system of its own."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    tried = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(disk)], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    script = (
        'mount -t tmpfs -o size="$1" none "$2" && cp -a "$3/." "$2" || exit 77;'
        '"$5" tools/train.py --resume "$2"; code=$?; cp -a "$2/." "$4"; exit $code'
    )
    pages = sum(-(-path.stat().st_size // 4096) * 4096 for path in stopped.rglob("*") if path.is_file())
    words = ["unshare", "-rm", "sh", "-c", script, "sh", pages + room, disk, stopped, kept, sys.executable]
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    (line,) = errors(done.stderr)
    assert line.endswith("cannot be written: No space left on device; the file that was there before is kept")
    assert (kept / "last.pt").read_bytes() == (stopped / "last.pt").read_bytes()


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writing thread
def test_curves_that_cannot_be_written_end_the_run_in_a_line_or_not_at_all(stopped, straight, monkeypatch, capsys):
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer")

    def full(recorder: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer.RecordWriter, "write", full)
    code = train("--resume", stopped)
    said = capsys.readouterr().err
    assert code in (0, 2)
    assert "No space left on device" in said
    assert len(errors(said)) == (code == 2)
    monkeypatch.undo()
    assert code == 0 or train("--resume", stopped) == 0
    assert PROOF.compare_runs(stopped, straight) == []


# --- signals -------------------------------------------------------------------------------------


def finishes_like(straight: Path, folder: Path) -> list[str]:
    """Resume an interrupted run; where it ends otherwise than the run nobody touched."""
    assert train("--resume", folder) == 0
    return PROOF.compare_runs(folder, straight)


@pytest.mark.e2e
def test_sigterm_while_evaluating_lets_the_evaluation_end(words, straight, tmp_path, at_batch):
    folder = tmp_path / "run"
    at_batch(1, send(signal.SIGTERM), training=False)
    assert train(*words, "--output", folder) == 143
    (line,) = PROOF.read_metrics(folder)
    assert line["AP"] is not None
    assert finishes_like(straight, folder) == []


@pytest.mark.e2e
def test_a_second_sigterm_changes_nothing(words, straight, tmp_path, at_batch):
    folder = tmp_path / "run"
    at_batch(2, send(signal.SIGTERM, signal.SIGTERM))
    assert train(*words, "--output", folder) == 143
    assert load_checkpoint(folder / "last.pt").training["progress"]["batch"] == 2
    assert finishes_like(straight, folder) == []


@pytest.mark.e2e
def test_a_second_ctrl_c_stops_at_once_and_the_last_save_stays(stopped, straight, at_batch, capsys):
    before = (stopped / "last.pt").read_bytes()
    at_batch(2, send(signal.SIGINT, signal.SIGINT))
    assert train("--resume", stopped) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert (stopped / "last.pt").read_bytes() == before
    assert finishes_like(straight, stopped) == []


@pytest.mark.e2e
def test_ctrl_c_inside_a_save_keeps_the_one_before(stopped, monkeypatch, capsys):
    """torch.save reports what interrupts it as an error of its own."""
    before = (stopped / "last.pt").read_bytes()
    write = _ErrorRecordingFile.write
    sizes: list[int] = []

    def interrupted(sink: _ErrorRecordingFile, data: bytes) -> int:
        sizes.append(len(data))
        if len(sizes) == 20:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return write(sink, data)

    monkeypatch.setattr(_ErrorRecordingFile, "write", interrupted)
    assert train("--resume", stopped, SAVE_EACH_STEP) == 130
    assert errors(capsys.readouterr().err) == []
    assert (stopped / "last.pt").read_bytes() == before
    assert list(stopped.glob(TMP_FILES)) == []


@pytest.mark.e2e
def test_sigterm_to_all_processes_at_once_saves_and_exits_143(words, tmp_path):
    """What schedulers and service managers do: every process of the job gets the signal."""
    folder = tmp_path / "run"
    process = start(*words, "train.workers=2", "train.epochs=500", "--output", folder)
    wait_until(lambda: len(children(process.pid)) >= 2 and (folder / "metrics.jsonl").exists(), process)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 143, said
    assert load_checkpoint(folder / "last.pt").training["progress"]["images_seen"] > 0
    assert PROOF.living(process.pid) == []


STOPPED_WHILE_FILLING = """
import os, signal, sys
from cspdet.cli.main import main
from cspdet.datasets.detection.dataset import DetectionImages
read = DetectionImages.__getitem__
def stopped(images, index):
    if index == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return read(images, index)
DetectionImages.__getitem__ = stopped
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.e2e
def test_sigterm_while_the_cache_is_filled_ends_at_once_and_leaves_nothing(words, tmp_path):
    command = [sys.executable, "-c", STOPPED_WHILE_FILLING, "train", *words, "train.cache=ram", "--output"]
    done = subprocess.run([str(word) for word in [*command, tmp_path / "run"]], capture_output=True, text=True)
    assert done.returncode in (143, -signal.SIGTERM), done.stderr  # as the shell tells either: 143
    assert errors(done.stderr) == []
    assert not (tmp_path / "run" / "last.pt").exists()


# --- kill -9 -------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_killed_inside_a_save_and_resumed_the_run_ends_with_the_same_bits():
    """The benchmark, with two kills; both of this seed are aimed at a save."""
    words = ["--kills", "2", "--epochs", "1", "--images", "32", "--seed", "0"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/kill_and_resume.py"), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills, " in done.stdout
    assert "the same, bit for bit, and nothing left over" in done.stdout


@pytest.mark.e2e
def test_the_comparison_sees_a_single_bit(straight, tmp_path, capsys):
    copy = Path(shutil.copytree(straight, tmp_path / "copy"))
    assert PROOF.compare_runs(straight, copy) == []
    content = torch.load(copy / "last.pt", weights_only=True)
    name = next(name for name, value in content["training"]["model"].items() if value.shape == (32,))
    content["training"]["model"][name].view(torch.int32)[1] ^= 1
    content["training"]["progress"]["best_metric"] += 1e-9
    torch.save(content, copy / "last.pt")
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text("\n".join([*lines[:2], lines[2].replace('"loss": ', '"loss": 1')]))
    (copy / "metrics.json").unlink()
    found = PROOF.compare_runs(straight, copy)
    starts = (
        "last.pt: training/model/" + name,
        "last.pt: training/progress/best_metric",
        "metrics.jsonl/2/loss",
        "metrics.json:",
    )
    assert [line.startswith(start) for line, start in zip(found, starts, strict=True)] == [True] * 4


# --- the folder ----------------------------------------------------------------------------------


def without_last(folder: Path) -> str:
    (folder / "last.pt").unlink()
    return f"error: {folder}/last.pt: no such file; expected a checkpoint (.pt) that cspdet train wrote"


def cut_last(folder: Path) -> str:
    os.truncate(folder / "last.pt", 1_000_000)
    return f"error: {folder}/last.pt: not a checkpoint, or corrupt"


@pytest.mark.e2e
@pytest.mark.parametrize("spoil", [without_last, cut_last])
def test_what_cannot_be_resumed_is_reported_in_one_line(stopped, capsys, spoil):
    expected = spoil(stopped)
    kept = {path.name: path.stat().st_mtime_ns for path in stopped.iterdir()}
    assert train("--resume", stopped) == 2
    (line,) = errors(capsys.readouterr().err)
    assert line.startswith(expected)
    assert {path.name: path.stat().st_mtime_ns for path in stopped.iterdir()} == kept


@pytest.mark.e2e
def test_a_run_whose_other_files_are_gone_goes_on(stopped, straight):
    """Nothing but last.pt is needed; best.pt comes back with the next evaluation."""
    for path in stopped.iterdir():
        if path.is_file() and path.name != "last.pt":
            path.unlink()
    assert train("--resume", stopped) == 0
    assert [line["epoch"] for line in PROOF.read_metrics(stopped)] == [2, 3]
    one, two = (load_checkpoint(run / "last.pt") for run in (stopped, straight))
    assert PROOF.differences(one.training["model"], two.training["model"]) == []
    assert load_checkpoint(stopped / "best.pt").training is None


@pytest.mark.e2e
def test_output_that_cannot_be_written_is_reported_in_one_line(words, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file/run", Path("/proc/run")):
        assert train(*words, "--output", folder) == 2
        (line,) = errors(capsys.readouterr().err)
        assert str(folder) in line
        assert "cannot be" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.e2e
def test_a_damaged_metrics_file_costs_no_epoch(stopped, straight, capsys):
    with (stopped / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n{"epoch": 2, "st')
    assert train("--resume", stopped) == 0
    assert capsys.readouterr().err.count("invalid line, skipped") >= 2
    assert PROOF.compare_runs(stopped, straight) == []


@pytest.mark.e2e
def test_an_edited_config_is_reported_to_have_no_effect(stopped, capsys):
    config = stopped / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 3", "epochs: 2"))
    assert train("--resume", stopped) == 0
    assert "config.yaml" in capsys.readouterr().err


@pytest.mark.e2e
def test_a_clock_that_jumps_changes_nothing(words, straight, tmp_path, monkeypatch):
    draw = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: 1e9 + draw.uniform(-1e8, 1e8))
    assert train(*words, "--output", tmp_path / "run") == 0
    monkeypatch.undo()
    assert PROOF.compare_runs(tmp_path / "run", straight) == []


@pytest.mark.e2e
def test_two_runs_do_not_share_a_folder(words, tmp_path, capsys):
    folder = tmp_path / "run"
    process = start(*words, "train.epochs=500", SAVE_EACH_STEP, "--output", folder)
    try:
        wait_until((folder / "last.pt").exists, process)
        assert train("--resume", folder) == 2
        (line,) = errors(capsys.readouterr().err)
        assert f"process {process.pid} on " in line
    finally:
        process.kill()
        process.communicate()
    done = load_checkpoint(folder / "last.pt").training["progress"]["epoch"]
    assert train("--resume", folder, f"train.epochs={done + 1}") == 0  # the lock went with its process
