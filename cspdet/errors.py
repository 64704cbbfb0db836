"""User errors. Every command prints them as lines that start with `error: ` and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One or more problems that the user can fix.

    A message names the file or flag, the key, the expected and the actual value.
    """

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class ConfigError(UserError):
    """A config, override or command line that is not valid."""


class DataError(UserError):
    """Annotations or images that cannot be used for training or evaluation."""


class CheckpointError(UserError):
    """A checkpoint that is corrupt, unsafe, written by another program, or for another architecture."""


class SourceError(UserError):
    """An image, video, camera or stream that cannot be read."""


def missing_package_error(name: str, extra: str, what: str) -> ConfigError:
    """Return the error for a missing package that `what` needs; `extra` is the extra of cspdet that installs it."""
    return ConfigError(f"{what} needs the package {name}, which is not installed: pip install 'cspdet[{extra}]'")


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` with the valid word closest to `word`, or an empty string if none is close."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def truncate_list(problems: list[str], limit: int = 10) -> list[str]:
    """Return the first `limit` problems, then one line with the number of the remaining ones."""
    rest = len(problems) - limit
    return problems if rest <= 0 else [*problems[:limit], f"... and {rest} more like these"]
