"""The zip of results that COCO's evaluation server takes, for sets whose annotations are not public."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from cspdet.errors import ConfigError
from cspdet.evaluation.records import Result
from cspdet.io.atomic import write_bytes

DEFAULT_SET = "test-dev2017"
SET_NAME = re.compile(r"((?:test-dev|test-challenge|test|val|train)\d{4})(?!\d)")  # in image_info_test-dev2017
ALGORITHM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
ZIP_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can have: equal results make equal bytes


def validate_algorithm_name(name: str) -> str:
    """The name as it is, if it can stand between the underscores of a file name.

    Raises:
        ConfigError: it cannot.
    """
    if not ALGORITHM.fullmatch(name):
        raise ConfigError(f"--name: expected letters and digits, then also any of . _ + -, found {name!r}")
    return name


def submission_name(annotations: Path, algorithm: str) -> str:
    """`detections_SET_ALGORITHM_results`, SET as the name of the annotation file has it, else test-dev2017."""
    match = SET_NAME.search(annotations.stem)
    return f"detections_{match[1] if match else DEFAULT_SET}_{validate_algorithm_name(algorithm)}_results"


def write_submission(folder: Path, name: str, results: Sequence[Result]) -> Path:
    """Write `name`.zip, which holds `name`.json alone, into `folder`; the path.

    Raises:
        UserError: the folder cannot be written.
    """
    entry = zipfile.ZipInfo(f"{name}.json", date_time=ZIP_TIMESTAMP)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # whatever wrote it: Unix, so that the permissions below are read
    entry.external_attr = 0o644 << 16
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(entry, json.dumps(list(results)))
    path = folder / f"{name}.zip"
    write_bytes(path, packed.getvalue())
    return path
