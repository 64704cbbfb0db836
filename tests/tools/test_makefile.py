"""`make install`: a wrong interpreter leaves nothing behind, and a copied checkout gets its own environment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Stands for Python: lists its calls, and makes an environment with itself as the interpreter.
FAKE_PYTHON = """#!/bin/sh
echo "$2 $3" >> "{calls}"
if [ "$2" = venv ]; then for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python"; fi
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "my checkout"
    (folder / "cspdet").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "setup.py", "constraints.txt", "cspdet/__init__.py"):
        (folder / name).touch()
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON.format(calls=tmp_path / "calls"))
    python.chmod(0o755)
    return folder


def install(folder: Path, python: Path) -> tuple[int, str, list[str]]:
    """Run `make install`; return its exit code, its output, and the calls of venv and pip."""
    calls = python.parent / "calls"
    calls.unlink(missing_ok=True)
    done = subprocess.run(
        ["make", "install", f"PYTHON={python}"], cwd=folder, capture_output=True, text=True, check=False
    )
    lines = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, done.stdout + done.stderr, [line for line in lines if line.startswith(("venv", "pip"))]


def test_a_wrong_interpreter_leaves_no_environment(checkout, tmp_path):
    code, output, _ = install(checkout, tmp_path / "missing")
    assert (code, "expected Python 3.10 or newer" in output) == (2, True), output
    assert not (checkout / ".venv").exists()
    assert install(checkout, tmp_path / "python")[0] == 0


def test_a_copied_or_moved_checkout_installs_again(checkout, tmp_path):
    python = tmp_path / "python"
    assert install(checkout, python)[2] == ["venv --clear", "pip install"]
    assert install(checkout, python)[2] == []
    copied, moved = tmp_path / "copied", tmp_path / "moved"
    shutil.copytree(checkout, copied)
    checkout.rename(moved)
    for folder in (copied, moved):
        assert install(folder, python)[2] == ["venv --clear", "pip install"]
        assert install(folder, python)[2] == []
