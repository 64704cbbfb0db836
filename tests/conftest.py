"""Settings for all tests."""

from __future__ import annotations

import logging
import os

import pytest
from hypothesis import settings

# Tests run side by side, a process a core: with more threads than cores, each waits for the others' barriers. Before
# torch is imported; the commands that tests start inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Time limits measure the machine, not the code; derandomized runs fail for everybody or for nobody.
settings.register_profile("cspdet", deadline=None, derandomize=True)
settings.load_profile("cspdet")


@pytest.fixture
def log_capture(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What is logged; a command that ran before may have cut the logger off from its parents."""
    monkeypatch.setattr(logging.getLogger("cspdet"), "propagate", True)
    caplog.set_level(logging.INFO, "cspdet")
    return caplog
