"""Text for terminals, pipes and plots: names from files cannot send control codes, and any encoding can print them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import PurePath
from typing import IO, Any

from cspdet.errors import UserError, hide_credentials

# Control characters except tab and line feed, characters that change the direction of text, and lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NON_ASCII = re.compile(r"[^\x00-\x7f]")


def escape_text(text: str, encoding: str = "utf-8") -> str:
    r"""Replace control characters, and characters that `encoding` lacks, by escapes such as `\\u001b`.

    The escapes are those of JSON, so the values of a JSON document do not change. Tabs and line feeds are not escaped.
    """
    text = _UNSAFE.sub(_escape, text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return _NON_ASCII.sub(lambda match: match[0] if _can_encode(match[0], encoding) else _escape(match), text)
    return text


def escape_line(text: str) -> str:
    """Escape text for one line of the log: `escape_text`, with line feeds escaped too.

    Without this, a file name with a line feed could add a false line to the log.
    """
    return escape_text(text).replace("\n", "\\n")


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _can_encode(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


class _EscapingStream:
    """A text stream whose `write` applies `escape_text` with the encoding of the stream."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def write(self, text: str) -> int:
        escaped = escape_text(text, getattr(self._stream, "encoding", None) or "utf-8")
        with self._report_errors():
            self._stream.write(escaped)
        return len(text)

    def flush(self) -> None:
        with self._report_errors():
            self._stream.flush()

    @contextmanager
    def _report_errors(self) -> Iterator[None]:
        """Convert a write error, such as a full disk, to UserError, and discard later output."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            with suppress(OSError):  # a stream without a file
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise UserError(f"standard output: cannot be written: {error.strerror}") from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def escaped_stdout(stream: IO[str] | None) -> Iterator[None]:
    """Redirect `sys.stdout` to `stream` with `escape_text` applied, inside the `with` block.

    If `stream` is None (the process has no stdout), nothing is redirected.
    """
    if stream is None or isinstance(stream, _EscapingStream):
        yield
        return
    escaping = _EscapingStream(stream)
    with redirect_stdout(escaping):
        yield
        escaping.flush()


class LogFormatter(logging.Formatter):
    """Formats log records: errors without the time, other records with the time in front.

    Control characters in values are escaped. User names and passwords in URLs are replaced by `***`.
    """

    def __init__(self, prefix: str = ""):
        super().__init__(datefmt="%m-%d %H:%M:%S")
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, with the traceback if it has an exception."""
        args = record.args
        if isinstance(args, tuple):
            args = tuple(map(_escape_argument, args))
        message = hide_credentials(escape_text(str(record.msg) % args if args else record.getMessage()))
        if record.levelno >= logging.ERROR:
            line = self._prefix + message
        else:
            level = "warning: " if record.levelno == logging.WARNING else ""
            line = f"{self.formatTime(record, self.datefmt)} {self._prefix}{level}{message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _escape_argument(value: object) -> object:
    return escape_line(str(value)) if isinstance(value, (str, PurePath, BaseException)) else value
