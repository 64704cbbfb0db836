"""Corrections of COCO files from other programs: unused duplicate categories, and file names of other systems."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from cspdet.datasets.formats.coco_parse import is_int64
from cspdet.datasets.issues import IssueCounter
from cspdet.io.text import other_forms


def drop_unused_duplicates(entries: list[Any], records: np.ndarray, notes: IssueCounter) -> list[Any]:
    """Among categories with equal names, drop those without boxes, such as category 0 of Roboflow.

    If no category of a name has boxes, the category with the highest id is kept.
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


def find_written_names(names: list[bytes], folder: Path, notes: IssueCounter) -> list[bytes]:
    """Correct file names that were written on another operating system.

    A name is kept if its file exists. Otherwise, backslashes become slashes, and accents get the Unicode normal form of
    the existing file.
    """
    result = []
    for encoded in names:
        name = os.fsdecode(encoded)
        forms = [name.replace("\\", "/")] if "\\" in name else list(other_forms(name))
        if forms and not os.path.exists(folder / name):
            if "\\" in name:
                notes.add("file names with backslashes, read as slashes", forms[0])
                name = forms[0]
            elif found := next((form for form in forms if os.path.exists(folder / form)), None):
                notes.add("file names with accents in another Unicode normal form than their files", found)
                name = found
        result.append(os.fsencode(name))
    return result
