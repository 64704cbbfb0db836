"""SIGTERM and SIGHUP as interruptions with an exit code of their own."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from cspdet.io.termination import SIGNALS, Terminated, termination_as_interrupt


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_interrupts_and_further_ones_do_not_disturb_the_cleanup(signum):
    cleaned: list[bool] = []

    def clean() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        cleaned.append(True)

    def run() -> None:
        with termination_as_interrupt(), contextlib.ExitStack() as stack:
            stack.callback(clean)
            os.kill(os.getpid(), signum)

    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    assert cleaned
    assert isinstance(caught.value, Terminated)
    assert caught.value.exit_code == 128 + signum
    assert signal.getsignal(signum) is signal.SIG_DFL


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with termination_as_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_process_just_ends():
    with termination_as_interrupt():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
