"""Downloading COCO from a server on this machine: resume, checks, and what is kept."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import FileServer, serve_files
from hypothesis import given, settings
from hypothesis import strategies as st

from cspdet.cli.prepare_data import print_summary
from cspdet.datasets.archives import unpack_zip
from cspdet.datasets.download import COCO_2017, Archive, CocoSplit, _count_boxes, download_coco
from cspdet.errors import DataError, UserError
from cspdet.io.fetch import fetch


def zipped(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def annotations(boxes: int) -> bytes:
    return json.dumps({"images": [], "annotations": [{"bbox": [0, 0, 1, 1]}] * boxes, "categories": []}).encode()


IMAGES_ZIP = zipped({f"val2017/{i:012d}.jpg": bytes([i]) * 5000 for i in range(3)})
ANNOTATIONS = zipped(
    {
        "annotations/instances_train2017.json": annotations(7),
        "annotations/instances_val2017.json": annotations(4),
        "annotations/captions_val2017.json": b"{}",
    }
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files = {"/zips/val2017.zip": IMAGES_ZIP, "/annotations/annotations_trainval2017.zip": ANNOTATIONS}
    with serve_files(files) as running:
        yield running


def facts(images: int = 3, size: int = len(IMAGES_ZIP)) -> dict[str, CocoSplit]:
    notes = Archive("annotations/annotations_trainval2017.zip", len(ANNOTATIONS), "annotations")
    images = Archive("zips/val2017.zip", size, "val2017", images)
    return {"val": CocoSplit(images, notes, "annotations/instances_val2017.json")}


def download(server: FileServer, folder: Path, known: dict[str, CocoSplit] | None = None, **options: int):
    return download_coco(
        folder, splits=["val"], base_url=server.url, split_specs=known or facts(), retry_delay_s=0, **options
    )


def test_a_download_gives_the_official_layout(server, tmp_path, capsys):
    prepared = download(server, tmp_path / "coco")
    files = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "coco").rglob("*") if path.is_file())
    assert files == [
        "coco/annotations/instances_val2017.json",
        "coco/coco.yaml",
        *(f"coco/val2017/{i:012d}.jpg" for i in range(3)),
    ]
    assert (tmp_path / "coco/val2017/000000000002.jpg").read_bytes() == b"\x02" * 5000
    print_summary(prepared, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["val"] == {"images": 3, "boxes": 4}
    assert printed["descriptor"] == str(tmp_path / "coco/coco.yaml")


def test_files_of_the_user_are_kept(server, tmp_path):
    archive, victim = tmp_path / "val2017.zip", tmp_path / "victim"
    archive.write_bytes(IMAGES_ZIP)
    download(server, tmp_path)
    assert archive.read_bytes() == IMAGES_ZIP, "downloaded by the user"
    assert not (tmp_path / "annotations_trainval2017.zip").exists()

    (tmp_path / "coco.yaml").write_text("# my own\n")
    with pytest.raises(DataError, match="cspdet did not write it"):
        download(server, tmp_path)
    assert (tmp_path / "coco.yaml").read_text() == "# my own\n"

    victim.write_bytes(b"of the user")
    (tmp_path / "file.zip.part").symlink_to(victim)
    with pytest.raises(UserError, match="is a symbolic link"):
        fetch(f"{server.url}/zips/val2017.zip", tmp_path / "file.zip", len(IMAGES_ZIP), retry_delay_s=0)
    assert victim.read_bytes() == b"of the user"


def test_the_known_facts():
    assert COCO_2017["train"].images.num_images == 118_287
    assert COCO_2017["val"].images.num_images == 5_000
    shipped = (Path(__file__).parents[2] / "data/coco.yaml").read_text()
    for split in COCO_2017.values():
        assert f"coco/{split.images.folder}," in shipped
        assert f"coco/{split.annotation_file}}}" in shipped


def test_what_is_complete_is_not_asked_for_again(server, tmp_path):
    download(server, tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    server.asked.clear()
    prepared = download(server, tmp_path)
    assert server.asked == []
    assert len([note for note in prepared.warnings if "kept" in note]) == 2
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_broken_connection_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = [None, 4000, 1000]  # the annotations whole, then the images in three parts
    download(server, tmp_path)
    assert [requested for path, requested in server.asked if "val2017.zip" in path and "zips" in path] == [
        None,
        "bytes=4000-",
        "bytes=5000-",
    ]
    assert len(list((tmp_path / "val2017").iterdir())) == 3


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.cuts = [None, 4000]
    with pytest.raises(UserError, match=rf"ended after 4000 of {len(IMAGES_ZIP)} bytes.*again to resume"):
        download(server, tmp_path, max_attempts=1)
    assert (tmp_path / "val2017.zip.part").stat().st_size == 4000
    assert not (tmp_path / "coco.yaml").exists()
    download(server, tmp_path)
    assert server.asked[-1] == ("/zips/val2017.zip", "bytes=4000-")
    assert len(list((tmp_path / "val2017").iterdir())) == 3
    assert not list(tmp_path.glob("*.part"))


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.zip.part").write_bytes(b"x" * 100)
    fetch(f"{server.url}/zips/val2017.zip", tmp_path / "file.zip", len(IMAGES_ZIP), retry_delay_s=0)
    assert (tmp_path / "file.zip").read_bytes() == IMAGES_ZIP


def test_a_part_longer_than_the_file_starts_again(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(b"x" * (len(IMAGES_ZIP) + 5))
    fetch(f"{server.url}/zips/val2017.zip", tmp_path / "file.zip", None, retry_delay_s=0)
    assert (tmp_path / "file.zip").read_bytes() == IMAGES_ZIP


def test_another_size_than_the_official_one_is_refused(server, tmp_path):
    with pytest.raises(UserError, match=f"expected 999 bytes, the server announces {len(IMAGES_ZIP)}"):
        download(server, tmp_path, facts(size=999))


def test_another_number_of_images_is_refused(server, tmp_path):
    with pytest.raises(DataError, match=r"expected 5 files in val2017/, found 3"):
        download(server, tmp_path, facts(images=5))
    assert not (tmp_path / "val2017").exists()


def test_an_incomplete_folder_is_reported_and_kept(server, tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "000000000001.jpg").write_bytes(b"1")
    with pytest.raises(DataError, match="expected the 3 images of COCO 2017, found 1; move"):
        download(server, tmp_path)
    assert (tmp_path / "val2017" / "000000000001.jpg").read_bytes() == b"1"


def test_a_flipped_bit_is_found_by_the_checksum(server, tmp_path):
    damaged = bytearray(IMAGES_ZIP)
    damaged[2000] ^= 1
    server.files["/zips/val2017.zip"] = bytes(damaged)
    with pytest.raises(DataError, match="corrupt archive: Bad CRC-32"):
        download(server, tmp_path)
    assert not (tmp_path / "val2017").exists()
    assert not list(tmp_path.glob(".val2017*"))


def test_what_is_no_zip_is_reported(server, tmp_path):
    server.files["/zips/val2017.zip"] = b"<html>a login page</html>" * 20
    with pytest.raises(DataError, match=r"val2017\.zip: corrupt archive: File is not a zip file"):
        download(server, tmp_path, facts(size=25 * 20))


def test_an_address_that_is_not_there(server, tmp_path):
    del server.files["/zips/val2017.zip"]
    with pytest.raises(UserError, match="the server responded 404"):
        download(server, tmp_path)


def test_no_network_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FileServer({}) as closed:
        url = closed.url  # nobody listens there once the server is closed
    with pytest.raises(UserError, match=r"cannot be reached .*needs no network"):
        download_coco(tmp_path, splits=["val"], base_url=url, split_specs=facts())


def test_no_space_is_reported_before_the_download(server, tmp_path):
    known = facts()
    huge = replace(known["val"].images, size=10**18)
    with pytest.raises(UserError, match="GB are needed"):
        download(server, tmp_path, {"val": replace(known["val"], images=huge)})
    assert server.asked == []


@pytest.mark.parametrize("name", ["../evil.jpg", "val2017/../../evil.jpg", "/evil.jpg", "..\\evil.jpg"])
def test_a_member_that_climbs_out_is_refused(tmp_path, name):
    (tmp_path / "bad.zip").write_bytes(zipped({"val2017/a.jpg": b"a", name: b"evil"}))
    with pytest.raises(DataError, match="unsafe member"):
        unpack_zip(tmp_path / "bad.zip", tmp_path / "deep" / "out", folder="val2017")
    assert not list(tmp_path.rglob("evil.jpg"))
    assert not list(tmp_path.rglob("a.jpg"))


@pytest.mark.parametrize("name", ["", ".", "val2017/a.jpg"])
def test_members_without_a_name_of_their_own_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("val2017/a.jpg", b"a")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile warns of the second member of this name
            archive.writestr(zipfile.ZipInfo(name), b"b")
    with pytest.raises(DataError, match=r"bad\.zip: (unsafe member|unsafe archive|corrupt archive)"):
        unpack_zip(tmp_path / "bad.zip", tmp_path / "out", folder="val2017", num_files=1)
    assert not (tmp_path / "out").exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("cspdet.datasets.archives.MIN_BOMB_BYTES", 100_000)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("val2017/a.jpg", bytes(1_000_000))
    with pytest.raises(DataError, match="more than 200 times the archive"):
        unpack_zip(tmp_path / "bad.zip", tmp_path / "out", folder="val2017")
    assert not (tmp_path / "out").exists()


@settings(max_examples=100)
@given(st.randoms(use_true_random=False))
def test_a_damaged_archive_is_an_error_and_leaves_nothing(random):
    data = bytearray(zipped({"val2017/a.jpg": b"abc" * 50, "annotations/b.json": b"{}"}))
    for _ in range(random.randint(1, 4)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bad.zip").write_bytes(data)
        with contextlib.suppress(UserError):
            unpack_zip(Path(folder) / "bad.zip", Path(folder) / "out", folder="val2017", num_files=1)
            (unpacked,) = (Path(folder) / "out/val2017").iterdir()
            assert unpacked.read_bytes() == b"abc" * 50
        assert {path.name for path in Path(folder).iterdir()} <= {"bad.zip", "out"}
        assert not list(Path(folder).glob("out/.*"))


@pytest.mark.parametrize("length", ["abc", "-5", "1e9", "9" * 5000, "\xb2", None])
def test_a_length_that_is_no_number_is_named(tmp_path, monkeypatch, length):
    class Response(io.BytesIO):
        status = 200
        headers = {} if length is None else {"Content-Length": length}

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Response(b"x"))
    with pytest.raises(UserError, match=r"^http://host/a\.zip: expected a number of bytes in the header") as caught:
        fetch("http://host/a.zip", tmp_path / "a.zip", None, max_attempts=1)
    assert len(str(caught.value)) < 200
    assert not list(tmp_path.iterdir())


def test_boxes_are_counted_across_the_borders_of_what_is_read_at_once(tmp_path, monkeypatch):
    (tmp_path / "instances.json").write_bytes(annotations(50))
    for chunk in range(6, 40):
        monkeypatch.setattr("cspdet.datasets.download.CHUNK_BYTES", chunk)
        assert _count_boxes(tmp_path / "instances.json") == 50
