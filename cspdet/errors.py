"""What goes wrong on the user's side. Every command prints these as `error: ` lines and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One or more mistakes that the user can mend; each says what, where, what was expected and what was found."""

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class ConfigError(UserError):
    """A configuration, override or command line that does not describe a run."""


class DataError(UserError):
    """Annotations or pictures that cannot be trained on or evaluated."""


class CheckpointError(UserError):
    """A checkpoint that is damaged, foreign, unsafe, or of another architecture."""


class SourceError(UserError):
    """A picture, video, camera or stream that cannot be read."""


def missing_package_error(name: str, extra: str, what: str) -> ConfigError:
    """The error of an engine or export whose package is not installed; `extra` is the extra of cspdet that has it."""
    return ConfigError(f"{what} needs the package {name}, which is not installed: pip install 'cspdet[{extra}]'")


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the valid word closest to `word`, or nothing when none is close."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def truncate_list(problems: list[str], limit: int = 10) -> list[str]:
    """The first `limit` problems, and one line that counts the rest."""
    rest = len(problems) - limit
    return problems if rest <= 0 else [*problems[:limit], f"... and {rest} more like these"]
