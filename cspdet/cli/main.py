"""The command line: `cspdet VERB ...`, and what `tools/VERB.py` calls."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cspdet.config.loader import OVERRIDE
from cspdet.errors import ConfigError, UserError, did_you_mean

COMMAND_HELP = {
    "train": "train a detector",
    "eval": "COCO AP of a detector or of a results file",
    "detect": "draw and list what a detector finds in pictures and videos",
    "import-darknet": "Darknet's cfg and weights to a checkpoint",
    "export": "a model as files of other programs: Darknet's cfg, weights and names",
    "info": "parameters, BFLOPs and memory traffic, beside the published figures",
    "prepare-data": "make the built-in set, download COCO, convert VOC or YOLO",
    "check-data": "what is wrong with a data set, where, and how often",
    "anchors": "how well anchors fit a data set, and better ones",
    "analyze": "why AP is what it is: errors, curves, worst pictures, and runs side by side, as a page",
    "plot": "training curves of one or several runs",
    "train-classifier": "train a backbone as a classifier",
    "eval-classifier": "top-1 and top-5 of a classifier",
    "classify": "the classes of pictures",
    "extract-features": "a backbone's features of pictures",
    "benchmark": "speed and memory of models on this machine",
}


class _Parser(argparse.ArgumentParser):
    """argparse that reports mistakes as ConfigError, with the nearest valid flag."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            word = message.split(": ", 1)[1].split()[0]
            flags = [flag for action in self._actions for flag in action.option_strings]
            close = difflib.get_close_matches(word.split("=")[0], flags, n=1, cutoff=0.5)
            hint = f" (did you mean {close[0]!r}?)" if close and close[0] != word else ""
            message = f"unexpected {word!r}{hint}; see {self.prog} --help"
        raise ConfigError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """The console command: the first word is the verb."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print("usage: cspdet VERB ...   (cspdet VERB --help tells more)\n")
        print("\n".join(f"  {command:14} {meaning}" for command, meaning in COMMAND_HELP.items()))
        return 0 if words else 2
    if words[0] == "--version":
        from cspdet import __version__

        print(f"cspdet {__version__}")
        return 0
    if words[0] not in COMMAND_HELP:
        print(
            f"error: unknown command {words[0]!r}{did_you_mean(words[0], COMMAND_HELP)}; there are: {', '.join(COMMAND_HELP)}",
            file=sys.stderr,
        )
        return 2
    return run_command(words[0], words[1:])


def run_command(command: str, argv: Sequence[str] | None = None, module: Any = None) -> int:
    """Run one command and turn what it raises into an exit code: 2 the user's mistake, 130 interrupted.

    Args:
        verb: name of the command; without `module`, `cspdet.cli.<verb>` implements it.
        argv: words after the command's name; default: those of this process.
        module: implements a command that is not part of the package (`add_arguments`, `run`, docstring as help).
    """
    logger = _log_to_stderr()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if module is None:
            module = importlib.import_module(f"cspdet.cli.{command.replace('-', '_')}")
        parser = _Parser(
            prog=f"cspdet {command}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(parser)
        return module.run(_parse(parser, words)) or 0
    except UserError as error:
        for problem in error.problems:
            logger.error("error: %s", problem)
        return 2
    except KeyboardInterrupt:
        logger.error("interrupted")
        return 130
    except BrokenPipeError:  # `cspdet info ... | head`: nobody reads on, which is no mistake
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _is_override(word: str) -> bool:
    """`key.path=value`, unless a file of that very name is meant."""
    return OVERRIDE.fullmatch(word) is not None and not Path(word).exists()


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Flags and positional words in any order; overrides are taken out first, and kept as `overrides`."""
    plain = [word for word in words if not _is_override(word)]
    has_subcommands = parser._subparsers is not None  # argparse parses those in order only
    args = parser.parse_args(plain) if has_subcommands else parser.parse_intermixed_args(plain)
    args.overrides = [word for word in words if _is_override(word)]
    return args


def _log_to_stderr() -> logging.Logger:
    logger = logging.getLogger("cspdet")
    logger.handlers.clear()  # one handler, on the stderr of this very call
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
