"""Facts in the head of a report page: model, input size, config, date, command and versions."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cspdet import __version__
from cspdet.errors import hide_credentials

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RunFacts:
    """Origin of the detections of a run; an unknown value is empty.

    Attributes:
        model: Name of the model, and its epoch.
        network: Backbone and neck.
        size: Input size, width x height in pixels.
        config: Path of the config.
        date: Date and time at which the detections were written.
    """

    model: str = ""
    network: str = ""
    size: str = ""
    config: str = ""
    date: str = ""

    def as_facts(self) -> Facts:
        """Return the labels and values of the known facts."""
        labels = (("model", self.model), ("network", self.network), ("input size", self.size))
        return tuple((k, v) for k, v in (*labels, ("config", self.config), ("detections of", self.date)) if v)


def page_facts() -> Facts:
    """Return the date, the command of this process without credentials, and the versions."""
    return (("date", format_time(datetime.now())), ("command", command_line(sys.argv)), ("versions", _versions()))


def format_time(time: datetime) -> str:
    """Format a local time to the minute: 2026-12-01 14:30."""
    return time.strftime("%Y-%m-%d %H:%M")


def command_line(argv: Sequence[str]) -> str:
    """Return the command line of a process, without the folder of its program and without credentials."""
    program = Path(argv[0]).name if argv and argv[0] not in ("", "-c") else "python"
    name = "cspdet" if program in ("__main__.py", "cspdet", "cspdet.exe") else program
    return hide_credentials(shlex.join([name, *argv[1:]]))


def _versions() -> str:
    try:
        torch = f", torch {version('torch')}"
    except PackageNotFoundError:
        torch = ""
    return f"cspdet {__version__}{torch}, Python {platform.python_version()}, {platform.system()}"
