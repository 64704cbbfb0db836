"""Read, check and filter COCO results files, `[{"image_id", "category_id", "bbox", "score"}]`; write submissions."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cspdet.datasets.formats.coco import CocoDataset
from cspdet.errors import ConfigError, DataError
from cspdet.evaluation.records import DETECTION_DTYPE, Records, Result, index_in_sorted, to_records, to_results
from cspdet.io.atomic import write_bytes
from cspdet.io.outputs import SUBMISSION_ZIP, OutputFile, check_outputs
from cspdet.io.text import read_bytes

RESULT_KEYS = ("image_id", "category_id", "bbox", "score")
EXPECTED_FORMAT = "expected a JSON list of COCO results, [{image_id, category_id, bbox, score}, ...]"
EXPECTED_BOX = "expected a bbox of four finite numbers"
EXPECTED_SCORE = "expected a finite score"
ROW = struct.Struct("<qq4dd")  # one row of DETECTION_DTYPE
COMPRESSED_MAGIC = {b"\x1f\x8b": "gzip-compressed; unpack it first", b"PK\x03\x04": "a zip archive; unpack it first"}

DEFAULT_SET = "test-dev2017"
SET_NAME = re.compile(r"((?:test-dev|test-challenge|test|val|train)\d{4})(?!\d)")  # in image_info_test-dev2017
ALGORITHM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
ZIP_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest that zip allows; fixed, so that equal results produce equal files


class _RawObject(list[tuple[str, Any]]):
    """A JSON object that is not a valid result, as a list of (key, value) pairs. A dict would lose duplicate keys."""


@dataclass
class _IssueCounter:
    """Counts issues by type. For the first entry of each type, stores its index in the file and its value."""

    count: dict[str, int] = field(default_factory=dict)
    first: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, issue: str, index: int, actual: str, count: int = 1) -> None:
        self.count[issue] = self.count.get(issue, 0) + count
        self.first[issue] = min(self.first.get(issue, (index, actual)), (index, actual))

    def lines(self, path: Path) -> list[str]:
        return [
            f"{path}: {issue}: {self.count[issue]} such, the first is result {index}: {actual}"
            for issue, (index, actual) in self.first.items()
        ]


def read_results(path: Path, coco: CocoDataset) -> list[Result]:
    """Read and check a results file; return the detections in file order, with only the four required keys.

    Args:
        path: The JSON file.
        coco: The dataset whose images and categories the results refer to.

    Raises:
        DataError: The file is not a results file, or entries are invalid. The message has one line per type of issue,
            with its first entry and a count.
    """
    entries = _parse(path)
    rows = [entry for entry in entries if type(entry) is bytes]
    records = np.frombuffer(b"".join(rows), DETECTION_DTYPE)
    issues = _IssueCounter()
    if len(rows) < len(entries):
        _add_malformed(entries, issues)
    file_indices = np.array([index for index, entry in enumerate(entries) if type(entry) is bytes], np.int64)
    _check_records(records, file_indices, coco, issues)
    if issues.first:
        raise DataError(*issues.lines(path))
    return to_results(records)


def filter_results(results: list[Result], min_score: float | None, max_detections: int | None) -> list[Result]:
    """Keep the best `max_detections` results per image, and only scores above `min_score`; None: no limit."""
    kept = [r for r in results if min_score is None or r["score"] > min_score]
    if max_detections is None:
        return kept
    of_image: dict[int, list[Result]] = defaultdict(list)
    for result in kept:
        of_image[result["image_id"]].append(result)
    return [
        result
        for group in of_image.values()
        for result in sorted(group, key=lambda result: -result["score"])[:max_detections]
    ]


def clip_results(results: list[Result], coco: CocoDataset) -> list[Result]:
    """Clip the boxes of results to the images; all image ids must be in the dataset."""
    records = to_records(results)
    order = np.argsort(coco.image_id, kind="stable")
    limit_wh = coco.size_hw[order[index_in_sorted(records["image_id"], coco.image_id)]][:, ::-1]
    low = np.clip(records["bbox"][:, :2], 0, limit_wh)
    high = np.clip(records["bbox"][:, :2] + records["bbox"][:, 2:], 0, limit_wh)
    records["bbox"] = np.concatenate((low, high - low), axis=1)
    return to_results(records)


def _add_malformed(entries: list[Any], issues: _IssueCounter) -> None:
    for index, entry in enumerate(entries):
        if type(entry) is not bytes:
            issue, actual = _classify_issue(entry)
            issues.add(issue, index, actual)


def _parse(path: Path) -> list[Any]:
    """Parse the file and return its entries; valid entries are packed rows (bytes)."""
    data = read_bytes(path)
    if not data.strip():
        raise DataError(f"{path}: the file is empty; {EXPECTED_FORMAT} ([] for no detections)")
    for magic, what in COMPRESSED_MAGIC.items():
        if data.startswith(magic):
            raise DataError(f"{path}: {what}; {EXPECTED_FORMAT}")
    content = _parse_json(data, path)
    if type(content) is not list:
        raise DataError(f"{path}: {EXPECTED_FORMAT}, found {_describe_top_level(content)}")
    return content


def _parse_json(data: bytes, path: Path) -> Any:
    try:
        text = data.decode(json.detect_encoding(data)).lstrip("\ufeff")
        return json.loads(text, object_pairs_hook=_pack)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}; {EXPECTED_FORMAT}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not JSON: byte {error.start} is not {error.encoding} text; {EXPECTED_FORMAT}"
        ) from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: not JSON: {error}; {EXPECTED_FORMAT}") from None


def _pack(pairs: list[tuple[str, Any]]) -> bytes | _RawObject:
    """Convert a JSON object (hook of json.loads): a valid result to a packed row, another object to `_RawObject`."""
    entry = dict(pairs)
    if len(entry) == len(pairs) and type(entry.get("image_id")) is int and type(entry.get("category_id")) is int:
        box, score = entry.get("bbox"), entry.get("score")
        if type(box) is list and len(box) == 4 and bool not in map(type, (*box, score)):
            try:
                return ROW.pack(entry["image_id"], entry["category_id"], *box, score)
            except (struct.error, OverflowError):
                return _RawObject(pairs)  # text, null, or a number of more than 64 bits
    return _RawObject(pairs)


def _describe_top_level(content: object) -> str:
    if isinstance(content, bytes):
        return "a single result outside of a list"
    if not isinstance(content, _RawObject):
        return f"{content!r:.40}"
    keys = [key for key, _ in content]
    description = f"a dict with the keys {', '.join(keys[:5]) or 'none'}{', ...' if len(keys) > 5 else ''}"
    return f"{description} (annotations?)" if {"images", "annotations"} & set(keys) else description


def _classify_issue(entry: object) -> tuple[str, str]:
    """Return the type of issue of an invalid entry, such as `no 'score'`, and the value that was found instead."""
    if not isinstance(entry, _RawObject):
        return "not a result", f"a list of {len(entry)}" if isinstance(entry, list) else f"{entry!r:.60}"
    result = dict(entry)
    if len(result) < len(entry):
        keys = [key for key, _ in entry]
        return "a key occurs twice", repr(next(key for key in keys if keys.count(key) > 1))
    missing = [key for key in RESULT_KEYS if key not in result]
    if missing:
        return f"no {missing[0]!r}", f"has the keys {', '.join(result) or 'none'}"
    for key in ("image_id", "category_id"):
        if type(result[key]) is not int or not -(2**63) <= result[key] < 2**63:
            return f"expected an integer as {key}", f"{result[key]!r:.60}"
    box = result["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
        return EXPECTED_BOX, f"{box!r:.60}"
    return EXPECTED_SCORE, f"{result['score']!r:.60}"


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**1023)


def _check_records(records: Records, file_indices: np.ndarray, coco: CocoDataset, issues: _IssueCounter) -> None:
    """Check the (N,) records and add problems to `issues`. `file_indices` (N,) are indices in the file."""

    def add(issue: str, mask: np.ndarray, get_actual: Callable[[np.void], object]) -> None:
        (indices,) = np.nonzero(mask)
        if len(indices):
            first = indices[0]
            issues.add(issue, int(file_indices[first]), str(get_actual(records[first])), len(indices))

    finite = np.isfinite(records["bbox"]).all(axis=1)
    add(EXPECTED_BOX, ~finite, lambda record: record["bbox"].tolist())
    negative = finite & (records["bbox"][:, 2:] < 0).any(axis=1)
    add("expected a bbox [x, y, width, height] without negative size", negative, lambda record: record["bbox"].tolist())
    add(EXPECTED_SCORE, ~np.isfinite(records["score"]), lambda record: record["score"])
    unknown = index_in_sorted(records["image_id"], coco.image_id) < 0
    issue = "not an image id of the annotations"
    if len(unknown) and unknown.all():
        ids = _preview_ids(coco.image_id)
        issue = f"results of another dataset? No image id is one of {coco.files.annotations} ({ids})"
    add(issue, unknown, lambda record: f"image_id {record['image_id']}")
    categories = coco.classes.category_ids
    unknown = index_in_sorted(records["category_id"], np.array(categories, np.int64)) < 0
    issue = f"not a category id of the annotations ({_preview_ids(sorted(categories))})"
    add(issue, unknown, lambda record: f"category_id {record['category_id']}")


def _preview_ids(ids: Sequence[int] | np.ndarray) -> str:
    return ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")


# --- submissions to COCO's evaluation server ---------------------------------------------------------


def validate_algorithm_name(name: str) -> str:
    """Return the algorithm name of a submission if it is valid.

    Raises:
        ConfigError: The name has characters other than letters, digits and . _ + -, or begins with one of . _ + -
    """
    if not ALGORITHM.fullmatch(name):
        raise ConfigError(f"--name: expected letters and digits, then also any of . _ + -, found {name!r}")
    return name


def submission_name(annotations: Path, algorithm: str) -> str:
    """Return `detections_SET_ALGORITHM_results`. SET is the split in the annotation file's name, or test-dev2017."""
    match = SET_NAME.search(annotations.stem)
    return f"detections_{match[1] if match else DEFAULT_SET}_{validate_algorithm_name(algorithm)}_results"


def write_submission(folder: Path, name: str, results: Sequence[Result]) -> Path:
    """Write `name`.zip, which contains `name`.json, for COCO's evaluation server. Return the path of the zip file.

    Raises:
        UserError: The folder is not writable, or has another file with this name.
    """
    path = folder / f"{name}.zip"
    check_outputs([OutputFile(path, SUBMISSION_ZIP)])
    entry = zipfile.ZipInfo(f"{name}.json", date_time=ZIP_TIMESTAMP)
    entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3  # Unix, whose permissions are read
    entry.external_attr = 0o644 << 16
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(entry, json.dumps(list(results)))
    write_bytes(path, packed.getvalue())
    return path
