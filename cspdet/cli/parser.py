"""The argument parser of a command: suggestions for misspelled flags, the options of all commands, and overrides."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
import textwrap
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, NoReturn

from cspdet.cli.synonyms import SYNONYMS, CommandWords
from cspdet.errors import ConfigError
from cspdet.io.terminal import wrap_line

LOG_LEVELS = ("debug", "info", "warning", "error")
# Commands whose computations use the threads of torch, NumPy or an engine; `benchmark` has its own --threads.
THREADED_COMMANDS = frozenset((
    "train", "eval", "predict", "detect", "export", "train-classifier", "eval-classifier", "classify",
    "extract-features", "anchors", "analyze",
))  # fmt: skip
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MIN_SIMILARITY = 0.75  # of a suggested flag; below it, suggestions are misleading


class Parser(argparse.ArgumentParser):
    """Argument parser that raises ConfigError and suggests the nearest valid flag."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with a message of argparse; for an unknown flag, the message suggests a similar flag."""
        if message.startswith("unrecognized arguments:"):
            word = message.split(": ", 1)[1].split()[0]
            message = f"unexpected {word!r}{self._suggest(word.split('=')[0])}; see {self.prog} --help"
        raise ConfigError(message)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Return the values of an argument. Raise ConfigError for an empty path, which would be the current folder."""
        if action.type is Path and action.option_strings and arg_strings == [""]:
            raise ConfigError(f"{action.option_strings[0]}: expected a path, found an empty text")
        return super()._get_values(action, arg_strings)

    def _suggest(self, word: str) -> str:
        """Return ` (did you mean ...?)` with the flag most similar to `word`; "" if no flag is similar.

        A word in SYNONYMS stands for a flag. If this command does not have this flag, the returned text says so.
        """
        subparsers = _subparsers(self)
        parsers = [self, *(subparsers.choices.values() if subparsers else ())]
        actions = [action for parser in parsers for action in parser._actions]
        words = CommandWords(actions, [])
        typed = word.lstrip("-").lower().replace("_", "-")
        if typed in SYNONYMS and words.target(typed) is None:
            return f" ({SYNONYMS[typed][0]} in other commands; this command has no such option)"
        known = {flag.lstrip("-"): flag for action in actions for flag in action.option_strings}
        for name in SYNONYMS:
            known.setdefault(name, words.target(name) or "")
        names = [name for name in known if known[name] and name != typed]
        close = difflib.get_close_matches(typed, names, n=1, cutoff=MIN_SIMILARITY)
        if not close and len(typed) > 2:
            close = [name for name in names if name.startswith(typed)][:1]
        return f" (did you mean {known[close[0]]!r}?)" if close else ""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formatter that wraps the paragraphs and the examples of a description at the width of the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for part in text.split("\n\n"):
            if re.search(r"^( |cspdet )", part, re.MULTILINE):
                lines += [line for example in part.split("\n") for line in _fit_example(example, width)]
            else:
                lines += textwrap.wrap(part, width)
            lines.append("")
        return textwrap.indent("\n".join(lines[:-1]), indent)


def _fit_example(line: str, width: int) -> list[str]:
    """Split an example into lines of at most `width` characters.

    If the example is too long, its comment comes first. Backslashes connect the lines of a command.
    """
    if len(line) <= width:
        return [line]
    command, mark, comment = line.partition(" # ")
    if mark:
        return [*wrap_line(f"  # {comment.strip()}", width, "  # "), *_fit_example(command.rstrip(), width)]
    *parts, last = wrap_line(command, width - 2, "      ")
    return [*(f"{part} \\" for part in parts), last]


def build_parser(command: str, module: Any) -> Parser:
    """Return the parser of a command, with its arguments and the options of all commands.

    Args:
        command: Name of the command.
        module: Its implementation: `add_arguments`, and the docstring as help.
    """
    parser = Parser(
        prog=f"cspdet {command}",
        description=module.__doc__,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    subparsers = _subparsers(parser)
    for leaf in subparsers.choices.values() if subparsers else [parser]:
        _add_common_arguments(leaf, with_threads=command in THREADED_COMMANDS)
    return parser


def _add_common_arguments(parser: argparse.ArgumentParser, *, with_threads: bool) -> None:
    group = parser.add_argument_group("log and processor")
    if with_threads:
        group.add_argument("--threads", type=int, metavar="N", help="number of CPU threads (default: all)")
    group.add_argument(
        "--log-level", choices=LOG_LEVELS, type=str.lower, default="info",
        help="lowest level of the lines on stderr (default: info)",
    )  # fmt: skip
    group.add_argument(
        "-q", "--quiet", action="store_const", const="warning", dest="log_level", help="the same as --log-level warning"
    )
    group.add_argument(
        "-v", "--verbose", action="store_const", const="debug", dest="log_level", help="the same as --log-level debug"
    )


def _subparsers(parser: argparse.ArgumentParser) -> Any:
    """Return the argparse action that has the subcommands; None if the command has no subcommands."""
    return next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)


def parse(parser: Parser, words: list[str]) -> argparse.Namespace:
    """Parse flags and positional arguments in any order.

    Returns:
        The arguments. `overrides` has the config overrides `key.path=value`. `notes` has pairs of an argument in the
        style of another toolkit and the argument of cspdet that replaces it.

    Raises:
        ConfigError: Invalid arguments.
    """
    subparsers = _subparsers(parser)
    if subparsers is not None:  # argparse parses those in order only
        chosen = next((subparsers.choices[word] for word in words if word in subparsers.choices), parser)
        sorted_words = CommandWords(chosen._actions, words, translate=False)
        args = parser.parse_args(sorted_words.plain)
    else:
        sorted_words = CommandWords(parser._actions, words)
        args = parser.parse_intermixed_args(sorted_words.plain)
    args.overrides, args.notes = sorted_words.overrides, sorted_words.notes
    return args


def limit_threads(threads: int | None, environ: MutableMapping[str, str]) -> None:
    """Limit the CPU threads of this process and its children to the value of `--threads`.

    Libraries that are imported later read the environment. The threads of OpenCV, and of torch if it is already
    imported, are set directly.

    Args:
        threads: Number of threads; None: no limit.
        environ: The environment to change, `os.environ`.

    Raises:
        ConfigError: The number is below 1.
    """
    if threads is None:
        return
    cores = os.cpu_count() or 1
    if not 1 <= threads <= 64 * cores:
        raise ConfigError(f"--threads: expected 1 or more, up to {64 * cores} on this machine, found {threads}")
    environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    importlib.import_module("cv2").setNumThreads(threads)
