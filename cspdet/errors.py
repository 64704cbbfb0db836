"""Exceptions for errors that the user can fix. Commands print them as `error: ...` lines and exit with code 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

# What logs, messages and results must not hold of a URL: `user:password@` (or another `@` before the path, unless it
# follows a port), and values such as `?password=...`.
_URL_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/{1,3})(?:[^\s/?#]*@|[^\s/?#@:]*:(?!\d+(?:[/?#]|\s|$))\S*@)")
_URL_SECRET = re.compile(
    r"([?&][^=&\s]*(?:pass|pwd|token|secret|key|auth|sig|credential)[^=&\s]*=)[^&\s'\"]*[^&\s'\".,:;]", re.I
)


class UserError(Exception):
    """Raised for one or more problems that the user can fix.

    Each message says what is wrong and where, what was expected and what was found.
    """

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class ConfigError(UserError):
    """Raised if a config, an override or a command line is invalid."""


class DataError(UserError):
    """Raised if annotations or images cannot be used for training or evaluation."""


class CheckpointError(UserError):
    """Raised if a checkpoint is corrupt, unsafe, written by another program, or made for another architecture."""


class SourceError(UserError):
    """Raised if an image, video, camera or stream cannot be read."""


class UnwritableFileError(UserError):
    """Raised if the name or folder of a file prevents writing. Other files may still be writable."""


def check_all(*checks: Callable[[], Any]) -> list[Any]:
    """Call every check, and return what each check returned.

    If checks raise UserError, the other checks are called nevertheless.

    Raises:
        UserError: The error of the check that failed; if several checks failed, a UserError with all problems.
    """
    results: list[Any] = []
    errors: list[UserError] = []
    for check in checks:
        try:
            results.append(check())
        except UserError as error:
            errors.append(error)
    if errors:
        problems = [problem for error in errors for problem in error.problems]
        raise errors[0] if len(errors) == 1 else UserError(*dict.fromkeys(problems))
    return results


def hide_credentials(text: str) -> str:
    """Replace logins and secret values in the URLs of a text by `***`."""
    return _URL_SECRET.sub(r"\1***", _URL_LOGIN.sub(r"\1***@", text)) if ":/" in text else text


def missing_package_error(name: str, extra: str, what: str, error: ImportError) -> ConfigError:
    """Return the error for an optional package that is not installed or cannot be imported.

    Args:
        name: Name of the package.
        extra: The optional dependency group of cspdet that installs the package (`pip install 'cspdet[EXTRA]'`).
        what: The feature that needs the package; the message starts with it.
        error: The error of the import.
    """
    return ConfigError(f"{what}: {describe_import_error(name, error)}: pip install 'cspdet[{extra}]'")


def describe_import_error(name: str, error: ImportError) -> str:
    """Describe why the package `name` cannot be imported: it is not installed, or its import raises `error`."""
    missing = isinstance(error, ModuleNotFoundError) and (error.name or name).partition(".")[0] == name
    return f"{name} is not installed" if missing else f"{name} is installed, but cannot be imported ({error})"


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the valid word x that is closest to `word`. Without a close word, return ""."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def truncate_list(problems: list[str], limit: int = 10) -> list[str]:
    """Return the first `limit` problems. If there are more, a last line states the number of omitted problems."""
    rest = len(problems) - limit
    return problems if rest <= 0 else [*problems[:limit], f"... and {rest} more like these"]
