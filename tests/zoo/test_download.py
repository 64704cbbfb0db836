"""Download of a model: mirrors, hashes, interrupted and concurrent fetches."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer, serve_files

from cspdet.errors import UserError
from cspdet.zoo.catalogue import ZooEntry
from cspdet.zoo.download import download_files, record_new_hashes

CONTENT = bytes(range(256)) * 40
OTHER = CONTENT[::-1]
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("CSPDET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("cspdet.zoo.download.RETRY_DELAY_S", 0.0)
    with serve_files({"/m.bin": CONTENT}) as running:
        yield running


def entry(*urls: str, **facts: Any) -> ZooEntry:
    return ZooEntry(
        summary="x", kind="timm", source="https://x", license="MIT",
        weights={"name": "m.bin", "urls": urls, **facts},
    )  # fmt: skip


def download(model: ZooEntry, **options: Any) -> bytes:
    return (download_files("m", model, **options) / "m.bin").read_bytes()


def left_over(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "home/zoo/m").rglob("*") if path.is_file())


def test_a_download_is_verified_and_kept(server, tmp_path):
    model = entry(f"{server.url}/m.bin", bytes=len(CONTENT), sha256=DIGEST)
    assert download(model) == CONTENT
    server.asked.clear()
    assert download(model) == CONTENT
    assert server.asked == []
    assert left_over(tmp_path) == ["m.bin"]


@pytest.mark.parametrize(
    ("prepare", "facts", "message"),
    [
        pytest.param(lambda s: s.files.update({"/m.bin": OTHER}), {}, "expected sha256 .*, found", id="other content"),
        pytest.param(
            lambda s: s.files.update({"/m.bin": CONTENT[:-1]}), {"bytes": len(CONTENT)},
            f"expected {len(CONTENT)} bytes, the server announces {len(CONTENT) - 1}", id="short",
        ),
        pytest.param(
            lambda s: s.files.update({"/m.bin": CONTENT + b"x"}), {"bytes": len(CONTENT)},
            f"expected {len(CONTENT)} bytes, the server announces {len(CONTENT) + 1}", id="longer",
        ),
        pytest.param(lambda s: s.web_pages.add("/m.bin"), {}, "the server sent a web page", id="web page"),
        pytest.param(lambda s: s.files.clear(), {}, "the server responded 404", id="missing"),
        pytest.param(
            lambda s: s.redirects.update({"/m.bin": f"{s.url}/gone"}), {}, "the server responded 404", id="redirect"
        ),
        pytest.param(
            lambda s: s.redirects.update({"/m.bin": f"{s.url}/m.bin"}), {}, "the server responded 302", id="circle"
        ),
        pytest.param(
            lambda s: s.redirects.update({"/m.bin": "file:///etc/hostname"}), {}, "the server responded 302", id="file"
        ),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_one_line_and_leaves_no_file(server, tmp_path, prepare, facts, message):
    model = entry(f"{server.url}/m.bin", sha256=DIGEST, **facts)
    prepare(server)
    with pytest.raises(UserError, match=message) as error:
        download(model)
    assert len(error.value.problems) == 1
    assert left_over(tmp_path) == []
    server.files["/m.bin"], server.redirects, server.web_pages = CONTENT, {}, set()
    assert download(model) == CONTENT


def test_a_redirect_and_a_mirror_are_followed(server, tmp_path, log_capture):
    server.redirects["/old.bin"] = f"{server.url}/m.bin"
    assert download(entry(f"{server.url}/old.bin", sha256=DIGEST)) == CONTENT
    (tmp_path / "home/zoo/m/m.bin").unlink()
    server.files["/bad.bin"] = OTHER
    model = entry(f"{server.url}/gone.bin", f"{server.url}/bad.bin", f"{server.url}/m.bin", sha256=DIGEST)
    assert download(model) == CONTENT
    assert "404" in log_capture.text
    assert "expected sha256" in log_capture.text


def test_an_interrupted_download_continues(server, tmp_path):
    server.cuts = [3000]
    model = entry(f"{server.url}/m.bin", bytes=len(CONTENT), sha256=DIGEST)
    assert download(model) == CONTENT
    assert [requested for _, requested in server.asked] == [None, "bytes=3000-"]
    assert left_over(tmp_path) == ["m.bin"]


@pytest.mark.parametrize("versions", [True, False])
def test_a_file_without_a_hash_is_never_joined_from_two_versions(server, tmp_path, versions):
    server.versions = versions
    model = entry(f"{server.url}/gone.bin", f"{server.url}/m.bin", bytes=len(CONTENT))
    folder = tmp_path / "home/zoo/m"
    folder.mkdir(parents=True)
    (folder / "m.bin.unverified.part").write_bytes(bytes(500))  # of another day, without a version
    server.files["/m.bin"], server.cuts = CONTENT, [3000, 0, 0, 0, 0]
    with pytest.raises(UserError, match="ended after 3000"):
        download(model)
    server.files["/m.bin"] = OTHER  # the source publishes another file of the same size
    assert download(model) == OTHER
    assert left_over(tmp_path) == ["m.bin"]


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, tmp_path):
    model = entry(f"{server.url}/m.bin", bytes=len(CONTENT), sha256=DIGEST)
    download(model)
    (tmp_path / "home/zoo/m/m.bin").write_bytes(OTHER)
    assert download(model) == CONTENT


def test_without_a_published_hash_the_first_one_is_recorded(server, tmp_path):
    model = entry(f"{server.url}/m.bin")
    download(model)
    record_new_hashes("m", model)
    assert json.loads((tmp_path / "home/zoo/hashes.json").read_text()) == {"m/m.bin": DIGEST}
    (tmp_path / "home/zoo/m/m.bin").unlink()
    server.files["/m.bin"] = OTHER
    with pytest.raises(UserError, match=r"which the first fetch recorded in .*hashes.json, found"):
        download(model)


def test_offline_nothing_is_downloaded_and_a_copy_is_verified(server, tmp_path, monkeypatch):
    monkeypatch.setenv("CSPDET_OFFLINE", "1")
    model = entry(f"{server.url}/m.bin", sha256=DIGEST)
    with pytest.raises(UserError, match=r"m.bin is not in the cache, and CSPDET_OFFLINE forbids downloads"):
        download(model)
    copy = tmp_path / "m.bin"
    copy.write_bytes(OTHER)
    with pytest.raises(UserError, match=f"--file: {copy}: expected sha256"):
        download(model, copies=[copy])
    copy.write_bytes(CONTENT)
    assert download(model, copies=[copy]) == CONTENT == copy.read_bytes()
    with pytest.raises(UserError, match=r"expected a file named m.bin"):
        download(model, copies=[tmp_path / "other.bin"])
    assert server.asked == []


def test_without_an_address_a_copy_is_asked_for(server):
    with pytest.raises(UserError, match=r"no address of m.bin is known.*--file"):
        download(entry())


FETCH = "import sys; from cspdet.zoo.catalogue import ZooEntry; from cspdet.zoo.download import *; " \
    "lock = lock_model('m'); lock.__enter__(); " \
    "download_files('m', ZooEntry.model_validate_json(sys.argv[1])); lock.__exit__(None, None, None)"  # fmt: skip


def test_processes_that_fetch_the_same_model_wait_for_each_other_and_a_killed_one_is_continued(server, tmp_path):
    model = entry(f"{server.url}/m.bin", bytes=len(CONTENT), sha256=DIGEST).model_dump_json()
    command = [sys.executable, "-c", FETCH, model]
    done = [process.wait(60) for process in [subprocess.Popen(command, env=os.environ) for _ in range(2)]]
    assert done == [0, 0]
    assert server.asked == [("/m.bin", None)]
    (tmp_path / "home/zoo/m/m.bin").unlink()
    server.pause_after = 5000
    killed = subprocess.Popen(command, env=os.environ)
    part = tmp_path / "home/zoo/m/m.bin.unverified.part"
    end = time.monotonic() + 30
    while time.monotonic() < end and not (part.is_file() and part.stat().st_size):
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    killed.wait()
    server.pause_after = None
    assert part.stat().st_size == 5000
    subprocess.run(command, env=os.environ, check=True, timeout=60)
    assert server.asked[-1] == ("/m.bin", "bytes=5000-")
    assert (tmp_path / "home/zoo/m/m.bin").read_bytes() == CONTENT
