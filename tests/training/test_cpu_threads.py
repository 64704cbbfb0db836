"""The number of CPU threads of a run: the cores that other processes leave free, unless the user chose a number."""

from __future__ import annotations

import pytest
import torch

from cspdet.training import cpu_threads
from cspdet.training.cpu_threads import free_cores, read_core_ticks, resolve_cpu_threads

CPU = torch.device("cpu")
# user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice of proc(5)
STAT = "cpu  30 0 0 170 0 0 0 0 0 0\ncpu0 10 0 0 85 5 0 0 0 0 0\ncpu1 20 0 0 80 0 0 0 0 0 0\nintr 5 0\n"
LATER = "cpu  130 0 0 270 0 0 0 0 0 0\ncpu0 10 0 0 180 10 0 0 0 0 0\ncpu1 95 0 0 100 0 0 0 5 0 0\nintr 5 0\n"


def test_idle_ticks_include_waiting_for_a_disk():
    assert read_core_ticks(STAT) == {0: (90, 100), 1: (80, 100)}


def test_free_cores_are_the_idle_fractions_of_the_usable_cores(tmp_path, monkeypatch):
    texts = iter([STAT, LATER] * 2)
    stat = tmp_path / "stat"
    stat.touch()
    monkeypatch.setattr(cpu_threads, "PROC_STAT", stat)
    monkeypatch.setattr(type(stat), "read_text", lambda *_, **__: next(texts))
    monkeypatch.setattr(cpu_threads.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert free_cores(0) == pytest.approx(1.0 + 0.2)  # core 0: 100 of 100 ticks idle; core 1: 20 of 100
    monkeypatch.setattr(cpu_threads.os, "sched_getaffinity", lambda _: {1}, raising=False)
    assert free_cores(0) == pytest.approx(0.2)


def test_without_proc_stat_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_threads, "PROC_STAT", tmp_path / "none")
    assert free_cores(0) is None
    assert resolve_cpu_threads("auto", CPU, {}) is None


@pytest.mark.parametrize(
    ("free", "threads"), [(4.0, None), (3.6, None), (3.4, 3), (1.9, 2), (0.3, 1), (0.0, 1)]
)  # of 4
def test_auto_is_the_number_of_free_cores(free, threads, monkeypatch):
    monkeypatch.setattr(cpu_threads, "free_cores", lambda *_: free)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert resolve_cpu_threads("auto", CPU, {}) == threads


def test_a_load_that_ends_within_a_second_is_ignored(monkeypatch):
    measured = iter([0.5, 1.8])
    monkeypatch.setattr(cpu_threads, "free_cores", lambda *_: next(measured))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert resolve_cpu_threads("auto", CPU, {}) is None


def test_the_users_number_is_kept(monkeypatch):
    monkeypatch.setattr(cpu_threads, "free_cores", lambda *_: 0.0)
    assert resolve_cpu_threads(3, CPU, {"OMP_NUM_THREADS": "2"}) == 3
    assert resolve_cpu_threads("auto", CPU, {"OMP_NUM_THREADS": "2"}) is None
    assert resolve_cpu_threads("auto", torch.device("cuda"), {}) is None


def test_threads_are_restored_after_the_context():
    before = torch.get_num_threads()
    with cpu_threads.cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with cpu_threads.cpu_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
