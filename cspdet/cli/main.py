"""Entry point of the command line `cspdet COMMAND ...`, of `tools/COMMAND.py`, and of `python -m cspdet`."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from cspdet import __version__
from cspdet.cli.arguments import fetch_models
from cspdet.cli.parser import THREADED_COMMANDS, build_parser, limit_threads, parse
from cspdet.errors import ConfigError, UserError, did_you_mean
from cspdet.io.terminal import LogFormatter, LogHandler, escaped_stdout
from cspdet.io.termination import Terminated, termination_as_interrupt

log = logging.getLogger("cspdet")

# The commands by group, in the order of `cspdet --help`.
COMMAND_GROUPS = {
    "data": {
        "prepare-data": "make the built-in set, download COCO, convert VOC or YOLO",
        "check-data": "check a dataset for errors",
        "anchors": "evaluate anchors on a dataset, and compute better ones",
    },
    "training and evaluation": {
        "train": "train a detector or a classifier",
        "eval": "evaluate a model or a results file: COCO AP, top-1, top-5",
        "analyze": "error types, curves, worst images, comparison of runs",
        "plot": "training curves of one or several runs",
    },
    "use": {
        "predict": "run a detector or a classifier on images and videos",
        "detect": "detect objects in images and videos, draw and list them",
        "export": "write ONNX, OpenVINO, TorchScript, Darknet or safetensors",
        "benchmark": "speed and memory of models on this machine",
    },
    "models": {
        "zoo": "list the trained models that `cspdet fetch` downloads",
        "fetch": "download trained models by name",
        "push": "upload a trained model to the Hugging Face Hub",
        "configs": "list the released configs, or copy one to edit it",
        "info": "parameters, BFLOPs, metadata, published values",
        "import-darknet": "convert a Darknet cfg and weights to a checkpoint",
    },
    "classifiers": {
        "train-classifier": "train a backbone as a classifier",
        "eval-classifier": "top-1 and top-5 accuracy of a classifier",
        "classify": "classify images",
        "extract-features": "feature maps of a backbone for images",
    },
}
COMMAND_HELP = {name: summary for group in COMMAND_GROUPS.values() for name, summary in group.items()}
# Other words for a command: those of ultralytics and mmdetection, and what command lines usually offer.
COMMAND_SYNONYMS = {
    "val": "eval", "validate": "eval", "evaluate": "eval", "test": "eval", "infer": "predict", "bench": "benchmark",
    "help": "help", "-h": "help", "--help": "help", "-V": "version", "--version": "version",
}  # fmt: skip
# Commands of other toolkits that have no command of their own here, and what does the same.
COMMAND_HINTS = {
    "track": "detect --track", "convert": "prepare-data convert", "demo": "predict", "finetune": "train",
    "list": "configs", "models": "configs", "download": "fetch",
}  # fmt: skip

# How long an OpenMP thread spins at the end of a parallel region before it sleeps: in iterations for libgomp, in
# milliseconds for Intel's runtime. The defaults are 300,000 iterations and 200 ms. On a busy machine, spinning threads
# occupy the cores that the threads they wait for need. benchmarks/busy_machine.py measures both.
OPENMP_SETTINGS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
OPENMP_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command named by the first argument.

    Args:
        argv: Arguments without the program name; None: the arguments of the process.

    Returns:
        The exit code; see `run_command`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return _exit_code(lambda: _run_words(*words or [""]))


def _run_words(command: str, *rest: str) -> int:
    if COMMAND_SYNONYMS.get(command) == "help" and rest:
        command, rest = rest[0], ("--help",)
    command = COMMAND_SYNONYMS.get(command, command)
    if command in ("", "help"):
        with escaped_stdout(sys.stdout):
            print(_overview())
        return 0 if command else 2
    if command == "version":
        with escaped_stdout(sys.stdout):
            print(f"cspdet {__version__}")
        return 0
    if command not in COMMAND_HELP:
        other = COMMAND_HINTS.get(command)
        hint = f" (did you mean {other!r}?)" if other else did_you_mean(command, COMMAND_HELP)
        raise ConfigError(f"unknown command {command!r}{hint}; `cspdet --help` lists the commands")
    return _run_command(command, list(rest), None)


def _overview() -> str:
    """Return the text of `cspdet --help`: the commands by group."""
    width = max(map(len, COMMAND_HELP))
    lines = ["usage: cspdet COMMAND ... [key.path=value ...]"]
    for title, commands in COMMAND_GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {summary}" for name, summary in commands.items())]
    return "\n".join([*lines, "", "cspdet COMMAND --help lists the arguments of a command."])


def run_command(command: str, argv: Sequence[str] | None = None, module: Any = None) -> int:
    """Run one command and convert its exceptions into an exit code.

    Args:
        command: Name of the command. If `module` is None, `cspdet.cli.<command>` implements it.
        argv: Arguments after the command name; None: the arguments of the process.
        module: Implementation of a command outside the package, with `add_arguments`, `run`, and a docstring as help
            text.

    Returns:
        0: success; 2: user error; 130: Ctrl-C; 143: SIGTERM; 129: SIGHUP; or the return value of the command.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return _exit_code(lambda: _run_command(command, words, module))


def _run_command(command: str, words: list[str], module: Any) -> int:
    limit_openmp_spinning(os.environ)
    _check_current_folder()
    if module is None:
        module = importlib.import_module(f"cspdet.cli.{command.replace('-', '_')}")
    with escaped_stdout(sys.stdout), termination_as_interrupt():
        args = parse(build_parser(command, module), words)
        log.setLevel(args.log_level.upper())
        for word, meaning in args.notes:
            log.info("%s is read as %s", word, meaning)
        if command in THREADED_COMMANDS:
            limit_threads(args.threads, os.environ)
        _import_user_modules(args)
        fetch_models(args)
        return module.run(args) or 0


def _exit_code(run: Callable[[], int]) -> int:
    """Call `run`, and return its exit code, or the exit code of the exception that it raises."""
    _log_to_stderr()
    try:
        return run()
    except UserError as error:
        for problem in error.problems:
            log.error("error: %s", problem)
        return 2
    except Terminated as signal:
        log.error("ended by %s", signal)
        return signal.exit_code
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    except BrokenPipeError:  # `cspdet info ... | head`: the reader closed the pipe, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a path that the user named, for example one that is too long
        if error.filename is None:
            raise
        log.error("error: %s: %s", error.filename, error.strerror)
        return 2


def _check_current_folder() -> None:
    """Raise UserError if the current folder was deleted, because importing torch would then crash."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder was deleted: expected one that exists; change to another folder") from None


def limit_openmp_spinning(environ: MutableMapping[str, str]) -> None:
    """Shorten the time that OpenMP threads of this process and its children spin before they sleep.

    If one of OPENMP_WAIT_VARIABLES is set, nothing is changed. libgomp reads the variables when torch is imported. A
    call after `import torch` affects only child processes.

    Args:
        environ: The environment to change, usually `os.environ`.
    """
    if not any(name in environ for name in OPENMP_WAIT_VARIABLES):
        environ.update(OPENMP_SETTINGS)


def _import_user_modules(args: argparse.Namespace) -> None:
    """Import the modules named by `--import`, if the command has this option."""
    modules: list[str] = getattr(args, "user_modules", [])
    if modules:
        from cspdet.config.user_modules import import_user_module

        for module in modules:
            import_user_module(module)


def _log_to_stderr() -> None:
    log.handlers.clear()  # keep one handler only, for the current sys.stderr
    handler = LogHandler(sys.stderr)
    handler.setFormatter(LogFormatter(stream=sys.stderr))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


if __name__ == "__main__":
    sys.exit(main())
