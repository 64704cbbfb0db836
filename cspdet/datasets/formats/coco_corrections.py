"""Corrections of COCO annotations as some programs write them: unused duplicate categories, backslashes in names."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from cspdet.datasets.formats.coco_parse import is_int64
from cspdet.datasets.issues import IssueCounter


def drop_unused_duplicates(entries: list[Any], records: np.ndarray, notes: IssueCounter) -> list[Any]:
    """Drop categories without boxes that have the name of another one, such as Roboflow's category 0.

    If no category of this name has boxes, the one with the highest id is kept.
    """
    by_name: dict[str, set[int]] = defaultdict(set)
    for entry in entries:
        if _has_name_and_id(entry):
            by_name[entry["name"]].add(entry["id"])
    used = set(records["category_id"].tolist())
    dropped: set[tuple[str, int]] = set()
    for name, ids in by_name.items():
        for category_id in sorted(ids - ((ids & used) or {max(ids)})):
            dropped.add((name, category_id))
            notes.add("category without boxes left out, another one has its name", f"{category_id} {name!r}")
    return [entry for entry in entries if not (_has_name_and_id(entry) and (entry["name"], entry["id"]) in dropped)]


def _has_name_and_id(entry: Any) -> bool:
    if not isinstance(entry, dict) or not is_int64(entry.get("id")):
        return False
    return isinstance(entry.get("name"), str) and bool(entry["name"].strip())


def read_backslashes(names: list[bytes], folder: Path, notes: IssueCounter) -> list[bytes]:
    """Replace backslashes by slashes in file names, as written on Windows, unless the file with backslashes exists."""
    result = []
    for name in names:
        if b"\\" in name and not os.path.exists(folder / os.fsdecode(name)):
            name = name.replace(b"\\", b"/")
            notes.add("file names with backslashes, read as slashes", os.fsdecode(name))
        result.append(name)
    return result
