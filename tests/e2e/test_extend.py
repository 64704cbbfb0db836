"""The page about components of the user's own: its files are written and its commands run, outside of the package."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/extend.md").read_text(encoding="utf-8")

Run = Callable[[str], subprocess.CompletedProcess[str]]


def blocks(language: str) -> list[str]:
    """The code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def files() -> dict[str, str]:
    """The files of the page by name; blocks of one name are parts of one file."""
    found: dict[str, str] = {}
    for block in (*blocks("python"), *blocks("yaml")):
        first, rest = block.split("\n", 1)
        name = first.removeprefix("# ")
        assert re.fullmatch(r"\w+\.(py|yaml)", name), f"the first line of a block names its file, found {first!r}"
        found[name] = found.get(name, "") + rest
    return found


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page and a dataset in the format of the page."""
    folder = tmp_path_factory.mktemp("extend")
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
    rng, lines = np.random.default_rng(0), []
    (folder / "images").mkdir()
    for i in range(8):
        image = rng.integers(0, 256, (64, 64, 3), np.uint8)
        cv2.imwrite(str(folder / f"images/{i}.png"), image)
        lines.append(f"{'train' if i < 6 else 'val'};images/{i}.png;{'ant' if i % 2 else 'bee'};{4 * i};8;24;16")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Run a command of the page as a user does: in that folder, in a process of its own."""

    def command(line: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(line)
        assert words[0] == "cspdet"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}  # as the console script
        arguments = [sys.executable, "-m", "cspdet", *words[1:]]
        return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return command


@pytest.mark.e2e
def test_the_commands_of_the_page_run(folder: Path, run: Run):
    assert COMMANDS[0].startswith("cspdet train")
    for line in COMMANDS:
        done = run(line)
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
    for name in ("runs/my/best.pt", "runs/my/losses.csv", "my.pt2", "my.onnx", "my.cfg", "my.weights", "detections"):
        assert (folder / name).exists(), name
    # A checkpoint does not import what it names
    done = run("cspdet info runs/my/best.pt")
    assert done.returncode == 2
    assert "add --import mynets" in done.stderr
