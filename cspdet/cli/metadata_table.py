"""The table of `cspdet info` with the metadata of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cspdet.io.names import count
from cspdet.io.tables import Table
from cspdet.workflows.run_facts import network_name

MAX_CLASSES = 20  # class names in the table
LABELS = {
    "name": "name", "date": "made at", "license": "license", "source": "source", "dataset": "dataset",
    "initial_weights": "initial weights", "epoch": "epochs",
}  # fmt: skip


def metadata_table(metadata: Mapping[str, Any]) -> Table:
    """Return a table with one row per fact of a checkpoint.

    Args:
        metadata: The metadata; see `cspdet.checkpoints.model_profile.file_metadata`.
    """
    return Table(("metadata", "value"), list(_rows(metadata)), num_text=2)


def _rows(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    config = metadata["config"]
    yield "file", metadata["file"]
    yield "size", f"{metadata['bytes'] / 1e6:.1f} MB, {metadata['precision']}"
    yield "task", metadata["task"]
    yield "network", network_name(config) or str(config["model"].get("name", "-"))
    yield "input size", "{}x{}, {}".format(*config["input"]["size"], config["input"].get("resize", "letterbox"))
    yield "classes", f"{len(metadata['class_names'])}: {_shorten(metadata['class_names'])}"
    yield "category ids", _shorten(metadata["category_ids"])
    for key, label in LABELS.items():
        if key in metadata:
            yield label, str(metadata[key])
    for name, split in metadata.get("data", {}).items():
        boxes = f", {count(split['boxes'], 'box')}" if split.get("boxes") is not None else ""
        yield f"{name} split", f"{count(split['images'], 'image')}{boxes}"
    if metadata.get("metrics"):
        yield "metrics", _join(metadata["metrics"], "{} {:.4f}")
    if metadata.get("versions"):
        yield "versions", _join(metadata["versions"], "{} {}")
    yield "written by", str(metadata["program"])
    yield "weights sha256", metadata["weights_sha256"]
    yield "config", f"{', '.join(config)} (all values: --json)"


def _shorten(values: Sequence[object]) -> str:
    more = f", and {len(values) - MAX_CLASSES} more" if len(values) > MAX_CLASSES else ""
    return ", ".join(map(str, values[:MAX_CLASSES])) + more


def _join(values: Mapping[str, Any], pattern: str) -> str:
    return ", ".join(f"{key} -" if value is None else pattern.format(key, value) for key, value in values.items())
