"""Text for terminals and pipes: control codes are escaped, lines fit the terminal, and messages are colored."""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any

from cspdet.errors import UserError, hide_credentials

# Control characters except tab and line feed, characters that change the direction of text, and lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
DEFAULT_WIDTH, MIN_WIDTH = 80, 20  # columns of a terminal of unknown size; of a very narrow terminal
_LEVEL_STYLES = {logging.WARNING: "33", logging.ERROR: "1;31"}  # ANSI: yellow, bold red


def escape_text(text: str, encoding: str = "utf-8") -> str:
    r"""Replace control characters, and characters that `encoding` lacks, by escapes such as `\u001b`.

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


def terminal_width(stream: IO[str] | None) -> int | None:
    """Return the number of columns of the terminal that `stream` writes to, or None if `stream` is not a terminal.

    The environment variable COLUMNS has priority over the size of the terminal.
    """
    if stream is None or not stream.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    size = int(columns) if columns.isdecimal() else 0
    if not size:
        with suppress(OSError, ValueError):  # a terminal without a file, as in notebooks
            size = os.get_terminal_size(stream.fileno()).columns
    return max(size or DEFAULT_WIDTH, MIN_WIDTH)


def has_color(stream: IO[str] | None) -> bool:
    """Return whether text on `stream` may be colored.

    A terminal has colors, except with NO_COLOR or TERM=dumb. FORCE_COLOR enables colors without a terminal.
    """
    environ = os.environ
    if stream is None or environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR", "0") != "0":
        return True
    shows_codes = os.name != "nt" or bool(environ.keys() & {"WT_SESSION", "ANSICON", "TERM"})  # old consoles of Windows
    return shows_codes and environ.get("TERM") != "dumb" and stream.isatty()


def wrap_line(text: str, width: int | None, indent: str | None = None) -> list[str]:
    """Divide a line at spaces into lines of at most `width` characters. If `width` is None, do not divide the line.

    A longer word, such as a path, is not divided, so that it can be copied. The lines after the first start with
    `indent`, by default two spaces more than the first line.
    """
    if width is None or len(text) <= width:
        return [text]
    start = re.match(r" *", text)[0]  # type: ignore[index]  # it matches every text
    return textwrap.wrap(
        text, max(width, MIN_WIDTH), subsequent_indent=f"{start}  " if indent is None else indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


class _EscapingStream:
    """A text stream whose `write` applies `escape_text` with the encoding of the stream."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def write(self, text: str) -> int:
        escaped = escape_text(text, getattr(self._stream, "encoding", None) or "utf-8")
        with self._report_errors():
            self._stream.write(escaped)
        return len(text)

    def write_styled(self, text: str) -> None:
        """Write text with color codes. The caller has escaped the other characters of the text."""
        with self._report_errors():
            self._stream.write(text)

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
        try:
            yield
        except SystemExit:  # after --help
            escaping.flush()
            raise
        escaping.flush()


class LogFormatter(logging.Formatter):
    """Formats log records: errors without the time, other records with the time in front.

    Control characters in values are escaped. User names and passwords in URLs are replaced by `***`. Lines for a
    terminal are wrapped at its width, and the words `error` and `warning` are colored.

    Args:
        prefix: Text before every message.
        stream: The stream of the handler; None: a file.
    """

    def __init__(self, prefix: str = "", stream: IO[str] | None = None):
        super().__init__(datefmt="%m-%d %H:%M:%S")
        self._prefix, self._stream = prefix, stream

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, with the traceback if it has an exception."""
        args = record.args
        if isinstance(args, tuple):
            args = tuple(map(_escape_argument, args))
        message = hide_credentials(escape_text(str(record.msg) % args if args else record.getMessage()))
        if record.levelno >= logging.ERROR:
            text = self._fit(self._prefix + message, "  ")
        else:
            level = "warning: " if record.levelno == logging.WARNING else ""
            time = f"{self.formatTime(record, self.datefmt)} "
            text = self._fit(f"{time}{self._prefix}{level}{message}", " " * len(time))
        if has_color(self._stream) and record.levelno in _LEVEL_STYLES:
            text = re.sub(r"\b(error|warning):", f"\x1b[{_LEVEL_STYLES[record.levelno]}m\\1:\x1b[0m", text, count=1)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text

    def _fit(self, text: str, indent: str) -> str:
        width = terminal_width(self._stream)
        return "\n".join(part for line in text.split("\n") for part in wrap_line(line, width, indent))


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[IO[str]]
else:
    _StreamHandler = logging.StreamHandler  # Python 3.10 cannot subscript it


class LogHandler(_StreamHandler):
    """Writes log lines to a stream. A progress bar is removed before a line is written, and drawn again after it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        bars = sys.modules.get("tqdm")  # without this module, there is no bar
        with nullcontext() if bars is None else bars.tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def _escape_argument(value: object) -> object:
    return escape_line(str(value)) if isinstance(value, (str, PurePath, BaseException)) else value
