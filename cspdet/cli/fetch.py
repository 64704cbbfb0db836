"""Download trained models by name: those that `cspdet zoo` lists, and models of the Hugging Face Hub.

  cspdet fetch yolov4-tiny yolo-fastest-1.1
  cspdet detect yolov4-tiny street.jpg                      # every MODEL can be the name of a downloaded model
  cspdet fetch hf:user/name hf:user/name@v2                 # models that `cspdet push` uploaded
  cspdet fetch yolov4 --file ~/Downloads/yolov4.weights     # a file that you have is copied, not downloaded

An interrupted download continues where it stopped. Size and hash are verified. Darknet weights are converted to a
checkpoint with the input size and the thresholds of the published accuracy.

Environment variables: CSPDET_HOME is the cache folder. CSPDET_OFFLINE=1 forbids downloads. CSPDET_ZOO is the file of a
further catalogue. http_proxy and https_proxy are the addresses of proxies.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cspdet.cli.arguments import print_lines
from cspdet.errors import ConfigError, UserError
from cspdet.zoo.catalogue import get_entry
from cspdet.zoo.hub import parse_hub_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fetch`."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="names of models")
    parser.add_argument(
        "--file", action="append", default=[], type=Path, dest="files", metavar="FILE",
        help="a file of the model that you have, under its published name (repeatable, with one NAME)",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true", help="verify the files of a downloaded model again, and convert them again"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigError if an argument or a name is wrong, before the first download."""
    if args.overrides:
        raise ConfigError(f"fetch: takes no overrides, found {args.overrides[0]!r}")
    if args.files and len(args.names) > 1:
        raise ConfigError(f"--file: expected one NAME, found {len(args.names)}")
    for name in args.names:
        if parse_hub_name(name) is None:
            get_entry(name)


def run(args: argparse.Namespace) -> None:
    """Download the models, and print the path of each.

    Raises:
        UserError: A download failed. The other models are downloaded before the error is raised.
    """
    _check(args)

    from cspdet.checkpoints.fetching import fetch_model

    paths: dict[str, str] = {}
    problems: list[str] = []
    for name in dict.fromkeys(args.names):
        try:
            paths[name] = str(fetch_model(name, copies=args.files, force=args.force))
        except UserError as error:
            problems += error.problems
    if args.json:
        print(json.dumps(paths))
    else:
        print_lines(f"{name}: {path}" for name, path in paths.items())
    if problems:
        raise UserError(*problems)


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("fetch"))
