"""metrics.jsonl of a resumed run: whole lines stay, damaged ones are left out with a warning."""

from __future__ import annotations

import json

from cspdet.training.loggers.jsonl import read_metrics


def test_damaged_lines_are_left_out_and_named(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    lines = [
        b'{"epoch": 1, "loss": 2.5}',
        b"\xff\xfe",
        b'{"epoch": 2, "note": "\xe9"}',
        b'{"epoch": 3',
        b"[1]",
        b'{"epoch": 4}',
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert read_metrics(path) == [json.loads(lines[0]), json.loads(lines[-1])]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}:{number}: invalid line, skipped" for number in (2, 3, 4, 5)
    ]
