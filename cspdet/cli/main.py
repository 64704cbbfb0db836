"""Entry point of the command line `cspdet COMMAND ...`, of `tools/COMMAND.py`, and of `python -m cspdet`."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cspdet.errors import ConfigError, UserError, did_you_mean

COMMAND_HELP = {
    "train": "train a detector or a classifier",
    "eval": "evaluate a detector (COCO AP), a classifier (top-1, top-5) or a results file",
    "predict": "run a detector or a classifier on images and videos",
    "detect": "detect objects in images and videos, draw and list them",
    "import-darknet": "convert a Darknet cfg and weights to a checkpoint",
    "export": "write a model as ONNX, OpenVINO, TorchScript or Darknet files",
    "info": "parameters, BFLOPs and memory traffic, compared with published values",
    "prepare-data": "create the built-in dataset, download COCO, convert VOC or YOLO",
    "check-data": "check a dataset for errors",
    "anchors": "evaluate anchors on a dataset, and compute better ones with k-means",
    "analyze": "error analysis of detections: error types, curves, worst images, comparison of runs",
    "plot": "training curves of one or several runs",
    "train-classifier": "train a backbone as a classifier",
    "eval-classifier": "top-1 and top-5 accuracy of a classifier",
    "classify": "classify images",
    "extract-features": "feature maps of a backbone for images",
    "benchmark": "speed and memory of models on this machine",
}

# How long an OpenMP thread spins at the end of a parallel region before it sleeps: in iterations for libgomp, in
# milliseconds for Intel's runtime. The defaults are 300,000 iterations and 200 ms. On a busy machine, spinning threads
# occupy the cores that the threads they wait for need. benchmarks/busy_machine.py measures both.
OPENMP_SETTINGS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
OPENMP_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


class _Parser(argparse.ArgumentParser):
    """Argument parser that raises ConfigError instead of exiting, and suggests the nearest valid flag."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            word = message.split(": ", 1)[1].split()[0]
            flags = [flag for action in self._actions for flag in action.option_strings]
            close = difflib.get_close_matches(word.split("=")[0], flags, n=1, cutoff=0.5)
            hint = f" (did you mean {close[0]!r}?)" if close and close[0] != word else ""
            message = f"unexpected {word!r}{hint}; see {self.prog} --help"
        raise ConfigError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command named by the first argument.

    Args:
        argv: Arguments without the program name; None: the arguments of the process.

    Returns:
        The exit code; see `run_command`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print("usage: cspdet COMMAND ...   (cspdet COMMAND --help lists its arguments)\n")
        print("\n".join(f"  {command:16} {summary}" for command, summary in COMMAND_HELP.items()))
        return 0 if words else 2
    if words[0] == "--version":
        from cspdet import __version__

        print(f"cspdet {__version__}")
        return 0
    if words[0] not in COMMAND_HELP:
        hint, names = did_you_mean(words[0], COMMAND_HELP), ", ".join(COMMAND_HELP)
        print(f"error: unknown command {words[0]!r}{hint}; the commands are: {names}", file=sys.stderr)
        return 2
    return run_command(words[0], words[1:])


def run_command(command: str, argv: Sequence[str] | None = None, module: Any = None) -> int:
    """Run one command and convert its exceptions into an exit code.

    Args:
        command: Name of the command. If `module` is None, `cspdet.cli.<command>` implements it.
        argv: Arguments after the command name; None: the arguments of the process.
        module: Implementation of a command outside the package, with `add_arguments`, `run`, and a docstring as help
            text.

    Returns:
        0 on success, 2 after a user error, 130 after Ctrl-C, or the return value of the command.
    """
    limit_openmp_spinning(os.environ)
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
        args = _parse(parser, words)
        _import_user_modules(args)
        return module.run(args) or 0
    except UserError as error:
        for problem in error.problems:
            logger.error("error: %s", problem)
        return 2
    except KeyboardInterrupt:
        logger.error("interrupted")
        return 130
    except BrokenPipeError:  # `cspdet info ... | head`: the reader closed the pipe, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def limit_openmp_spinning(environ: MutableMapping[str, str]) -> None:
    """Shorten the time that OpenMP threads of this process and its children spin before they sleep.

    Nothing is changed if the user has set one of the variables. libgomp reads the variables when `import torch` loads
    it; calls after that affect only child processes.

    Args:
        environ: The environment to change, usually `os.environ`.
    """
    if not any(name in environ for name in OPENMP_WAIT_VARIABLES):
        environ.update(OPENMP_SETTINGS)


def _is_override(word: str) -> bool:
    """Return whether the word is an override `key.path=value` and not the name of an existing file."""
    from cspdet.config.resolve import OVERRIDE

    return "=" in word and OVERRIDE.fullmatch(word) is not None and not Path(word).exists()


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Parse flags and positional arguments in any order.

    Overrides are removed before argparse runs, and stored in `args.overrides`.
    """
    overrides = [word for word in words if _is_override(word)]
    plain = [word for word in words if word not in overrides]
    has_subcommands = parser._subparsers is not None  # argparse parses those in order only
    args = parser.parse_args(plain) if has_subcommands else parser.parse_intermixed_args(plain)
    args.overrides = overrides
    return args


def _import_user_modules(args: argparse.Namespace) -> None:
    """Import the modules named by `--import`, if the command has this option."""
    modules: list[str] = getattr(args, "user_modules", [])
    if modules:
        from cspdet.config.user_modules import import_user_module

        for module in modules:
            import_user_module(module)


def _log_to_stderr() -> logging.Logger:
    logger = logging.getLogger("cspdet")
    logger.handlers.clear()  # keep one handler only, for the current sys.stderr
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
