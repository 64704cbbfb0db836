"""One run a folder: who comes second is told who is there, and nobody is kept out by a process that is dead."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cspdet.cli.main import run_command
from cspdet.errors import ConfigError, UserError
from cspdet.io.atomic import atomic_write, remove_stale_temp_files
from cspdet.training.run.run_lock import LOCK_FILE, RunDirInUseError, RunLock

fcntl = pytest.importorskip("fcntl")

# Locks its folder, forks a child that outlives it when told so, says so, and waits.
HOLDER = """
import os, sys, time
from pathlib import Path
from cspdet.training.run.run_lock import RunLock
lock = RunLock()
lock.acquire(Path(sys.argv[1]))
child = os.fork()
print(child, flush=True) if child else time.sleep(8)
sys.stdin.read()
lock.release()
"""


@contextmanager
def holder(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that has the lock, and its child."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process, child
    finally:
        process.kill()
        os.kill(child, 9)  # it holds the pipe that communicate() reads to its end
        process.communicate()


def test_the_second_process_gets_the_id_of_the_first(tmp_path):
    with holder(tmp_path) as (process, _):
        with pytest.raises(RunDirInUseError) as caught:
            RunLock().acquire(tmp_path)
        (line,) = caught.value.problems
        assert line.startswith(f"{tmp_path}: another run writes into this folder (process {process.pid} on ")
        assert line.endswith("; wait for its end, or choose another --output")
        assert (tmp_path / LOCK_FILE).exists()


def test_a_killed_process_keeps_nobody_out_even_while_its_children_live(tmp_path):
    with holder(tmp_path) as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # still there
        with RunLock() as lock:
            lock.acquire(tmp_path)
            assert f"process {os.getpid()} on ".encode() in (tmp_path / LOCK_FILE).read_bytes()
        assert not (tmp_path / LOCK_FILE).exists()


def test_a_released_folder_is_free_and_holds_no_lock_file(tmp_path):
    with holder(tmp_path) as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        process.stdin = None  # communicate would flush it
        assert list(tmp_path.iterdir()) == []
        with RunLock() as lock:
            lock.acquire(tmp_path)


def test_taking_twice_is_taking_once_and_another_folder_frees_the_first(tmp_path):
    with RunLock() as lock:
        for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
            lock.acquire(folder)
        assert [path.name for path in sorted(tmp_path.rglob(LOCK_FILE))] == [LOCK_FILE]
        assert (tmp_path / "b" / LOCK_FILE).exists()
    assert not list(tmp_path.rglob(LOCK_FILE))


def test_a_folder_that_was_made_and_stayed_empty_goes_with_the_lock(tmp_path):
    (tmp_path / "yours").mkdir()
    for name, holds, stays in (("new", False, False), ("used", True, True), ("yours", False, True)):
        with RunLock() as lock:
            lock.acquire(tmp_path / name)
            if holds:
                (tmp_path / name / "config.yaml").write_text("")
        assert (tmp_path / name).exists() is stays


def test_the_first_process_of_a_distributed_run_locks_for_all(tmp_path):
    with holder(tmp_path):
        RunLock(active=False).acquire(tmp_path)
        assert f"process {os.getpid()}".encode() not in (tmp_path / LOCK_FILE).read_bytes()


@pytest.mark.parametrize("command", ["train", "train-classifier"])
@pytest.mark.parametrize("flag", ["--resume", "--output"])
def test_a_named_folder_is_locked_before_anything_in_it_is_read(command, flag, tmp_path, monkeypatch):
    """Or a run that ended between the two would be gone on with from what it had been."""
    seen = []

    def read(*_: object) -> None:
        seen.append((tmp_path / LOCK_FILE).exists())
        raise ConfigError("enough")

    monkeypatch.setattr("cspdet.checkpoints.resume.load_recipe_or_resume", read)
    assert run_command(command, [flag, str(tmp_path)]) == 2
    assert seen == [True]
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_free_folder_is_one_that_nobody_holds(tmp_path, monkeypatch):
    """Also when the other process came between the choice and the lock: both saw an empty folder."""
    (tmp_path / "run").mkdir()
    answers = iter([tmp_path / "run", tmp_path / "run-2"])
    monkeypatch.setattr("cspdet.training.run.run_lock.increment_path", lambda base: next(answers))
    with holder(tmp_path / "run"), RunLock() as lock:
        assert lock.acquire_unused(tmp_path / "run") == tmp_path / "run-2"
    monkeypatch.undo()
    with holder(tmp_path / "run"), RunLock() as lock:
        assert lock.acquire_unused(tmp_path / "run") == tmp_path / "run-2"


def test_folders_that_cannot_be_written_are_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file/run", Path("/proc/run")):
        with pytest.raises(UserError, match=f"^{folder}: cannot be written: [^\n]*$"):
            RunLock().acquire(folder)


def test_file_systems_without_locks_are_reported_and_used(tmp_path, monkeypatch, caplog):
    def refuse(*words: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with caplog.at_level("WARNING", logger="cspdet"), RunLock() as lock:
        lock.acquire(tmp_path)
    assert "No locks available; take care that no second run writes into this folder" in caplog.text


def test_tmp_files_of_dead_processes_are_removed_and_no_other_file(tmp_path, caplog):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = [f".last.{os.getppid()}.part.pt", "last.pt", ".hidden.pt", ".part.pt", "last.7.part.pt", ".last.x.part.pt"]
    gone = [f".last.{dead.pid}.part.pt", f".best.of.all.{os.getpid()}.part.pt", f".metrics.{dead.pid}.part.jsonl"]
    for name in [*kept, *gone]:
        (tmp_path / name).write_text("x")
    (tmp_path / f".folder.{dead.pid}.part").mkdir()
    with caplog.at_level("INFO", logger="cspdet"), RunLock() as lock:
        lock.acquire(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, f".folder.{dead.pid}.part"}
    assert all(name in caplog.text for name in gone)


def test_what_a_process_leaves_when_it_dies_in_a_write_is_found(tmp_path):
    """The name that `temporary` gives is the name that `remove_abandoned` looks for."""
    for name in ("last.pt", "metrics.jsonl", "README", "a.b.c"):
        with atomic_write(tmp_path / name) as part_path:
            part_path.write_text("whole")
        part_path.write_text("half")  # as a kill would have left it
        assert remove_stale_temp_files(tmp_path) == [part_path.name]
        assert (tmp_path / name).read_text() == "whole"
