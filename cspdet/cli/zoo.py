"""List the trained models that `cspdet fetch NAME` downloads.

  cspdet zoo                       # a table
  cspdet zoo yolov4-tiny           # source, license, hashes and accuracy of one model
  cspdet zoo --json

The accuracy is the published accuracy. `val2017` is `yes` if the model was not trained on val2017 of COCO. Only then is
an evaluation on val2017 fair.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from cspdet.cli.arguments import print_lines
from cspdet.errors import ConfigError
from cspdet.io.tables import Table
from cspdet.zoo.cache import model_path
from cspdet.zoo.catalogue import Accuracy, ZooEntry, get_entry, read_catalogue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `zoo`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="show all facts of these models (default: a table)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> None:
    """Print the catalogue."""
    if args.overrides:
        raise ConfigError(f"zoo: takes no overrides, found {args.overrides[0]!r}")
    entries = {name: get_entry(name) for name in args.names} or read_catalogue()
    if args.json:
        print(json.dumps([_facts(name, entry) for name, entry in entries.items()]))
    elif args.names:
        print_lines(line for name, entry in entries.items() for line in _details(name, entry))
    else:
        print_lines([_table(entries)])


def _facts(name: str, entry: ZooEntry) -> dict[str, Any]:
    """Return the values of a catalogue entry, with the name and path of the model and whether it is downloaded."""
    path = model_path(name, entry)
    return {"name": name, **entry.model_dump(mode="json"), "path": str(path), "downloaded": path.is_file()}


def _details(name: str, entry: ZooEntry) -> list[str]:
    """Return the lines that describe one model."""
    path = model_path(name, entry)
    lines = [f"{name}: {entry.summary}", f"  source    {entry.source}", f"  license   {entry.license}"]
    if entry.published is not None:
        size = "" if entry.size is None else f" at {entry.size[0]}x{entry.size[1]}"
        lines.append(f"  accuracy  {_accuracy(entry.published)} on {entry.published.on}{size}")
    if entry.fair_on_val2017 is not None:
        lines.append(f"  val2017   {entry.fair_on_val2017}")
    for file in entry.files:
        size_text = "" if file.bytes is None else f", {file.bytes} bytes"
        lines += [f"  file      {file.name}{size_text}", *(f"            {url}" for url in file.urls)]
        lines += [f"            {algorithm} {value}" for algorithm, value in file.hashes.items()]
    return [*lines, f"  here      {path}" if path.is_file() else f"  fetch     cspdet fetch {name}"]


def _table(entries: dict[str, ZooEntry]) -> Table:
    """Return the table: name, accuracy, val2017, whether the model is downloaded, and the size of the weights."""
    rows = []
    for name, entry in entries.items():
        size = "-" if entry.weights.bytes is None else f"{entry.weights.bytes / 1e6:.1f}"
        accuracy = "-" if entry.published is None else _accuracy(entry.published)
        here = "yes" if model_path(name, entry).is_file() else "-"
        rows.append((name, accuracy, entry.fair_on_val2017 or "-", here, size))
    return Table(("model", "published accuracy", "val2017", "here", "MB"), rows, num_text=4)


def _accuracy(published: Accuracy) -> str:
    """Return the values as text: `AP 43.5, AP50 65.7`."""
    named = {"AP": published.ap, "AP50": published.ap50, "VOC mAP": published.voc_map, "top-1": published.top1}
    return ", ".join(f"{name} {value:g}" for name, value in named.items() if value is not None)


if __name__ == "__main__":
    from cspdet.cli.main import run_command

    raise SystemExit(run_command("zoo"))
