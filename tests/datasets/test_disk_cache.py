"""The disk cache: right or not there at all, filled once, and told in full when it cannot be."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cspdet.datasets import disk_cache
from cspdet.datasets.disk_cache import DiskCache, fingerprint, open_or_build_cache
from cspdet.errors import ConfigError, DataError

SIZES = [(4, 6), (1, 1), (7, 3), (5, 5)]


def noise_image(index: int) -> np.ndarray:
    """Noise that tells the images apart."""
    return np.random.default_rng(index).integers(0, 256, (*SIZES[index], 3), np.uint8)


def broken(*bad: int) -> Callable[[int], np.ndarray]:
    def load(index: int) -> np.ndarray:
        if index in bad:
            raise DataError(f"{index}.jpg: cannot be decoded")
        return noise_image(index)

    return load


def never(index: int) -> np.ndarray:
    raise AssertionError(f"image {index} was decoded again")


def fill(path: Path, load: Callable[[int], np.ndarray] = noise_image, *, skip_bad: bool = False) -> DiskCache:
    return open_or_build_cache(path, len(SIZES), lambda: 1000, load, skip_bad_images=skip_bad)


def same(cache: DiskCache, but: tuple[int, ...] = ()) -> bool:
    return all(np.array_equal(cache[i], noise_image(i)) for i in range(len(SIZES)) if i not in but)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "cspdet-0123.images"


def test_what_is_there_is_not_decoded_again(path):
    first = fill(path)
    again = fill(path, never)
    assert same(first)
    assert same(again)
    assert len(again) == len(SIZES)
    assert again.nbytes == 3 * (24 + 1 + 21 + 25)
    assert path.stat().st_size > again.nbytes
    assert [file.name for file in path.parent.iterdir() if file.suffix != ".lock"] == [path.name]


def test_its_images_cannot_be_written_to(path):
    cache = fill(path)
    with pytest.raises(ValueError, match="read-only"):
        cache[0][...] = 0


def test_processes_that_are_not_forked_map_it_themselves(path):
    sent = pickle.dumps(fill(path))
    assert len(sent) < 1000
    assert same(pickle.loads(sent))


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[1:],
        lambda whole: b"",
        lambda whole: b"x" * len(whole),
        lambda whole: whole[:-40] + b"\0" + whole[-40:],
    ],
)
def test_damaged_file_is_written_again(path, damage, caplog):
    fill(path)
    path.write_bytes(damage(path.read_bytes()))
    assert same(fill(path))
    assert f"{path} is unusable and is rebuilt" in caplog.text
    assert same(fill(path, never))


def test_run_killed_while_filling_leaves_nothing_wrong(path):
    def killed(index: int) -> np.ndarray:
        if index == 2:
            raise KeyboardInterrupt
        return noise_image(index)

    with pytest.raises(KeyboardInterrupt):
        fill(path, killed)
    assert not path.exists()
    tmp_file = path.with_name(f".{path.stem}.99999999.part{path.suffix}")  # what kill -9 would leave
    tmp_file.write_bytes(b"half")
    other = path.with_name(".cspdet-4567.99999999.part.images")
    other.write_bytes(b"of another cache, which may be being filled")
    assert same(fill(path))
    assert not tmp_file.exists()
    assert other.exists()


def test_unreadable_images_are_noted_for_the_runs_to_come(path):
    assert fill(path, broken(1, 3), skip_bad=True).problems == {
        1: "1.jpg: cannot be decoded",
        3: "3.jpg: cannot be decoded",
    }
    again = fill(path, never, skip_bad=True)
    assert set(again.problems) == {1, 3}
    assert same(again, but=(1, 3))
    with pytest.raises(DataError) as caught:
        fill(path, never)
    assert caught.value.problems == ("1.jpg: cannot be decoded", "3.jpg: cannot be decoded")


def test_unreadable_images_are_reported_together_and_nothing_is_written(path):
    with pytest.raises(DataError) as caught:
        fill(path, broken(1, 3))
    assert caught.value.problems == ("1.jpg: cannot be decoded", "3.jpg: cannot be decoded")
    assert not list(path.parent.glob("*.images"))


def test_full_disk_is_reported_before(path, monkeypatch):
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(
        ConfigError, match=r"train\.cache_folder: .* need 0 MB, but the limit is 0 MB \(90% .* another folder"
    ):
        fill(path, never)
    assert not path.exists()


@pytest.mark.parametrize("below", [False, True])
def test_folder_that_cannot_be_is_reported(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("not a folder")
    folder = file / "below" if below else file
    with pytest.raises(ConfigError, match=r"train\.cache_folder: .*file.* cannot be written"):
        fill(folder / "cspdet-0123.images", never)


def test_of_two_at_once_one_fills(path):
    decoded: list[int] = []
    both = threading.Barrier(2, timeout=20)

    def load(index: int) -> np.ndarray:
        if not decoded:
            both.wait()  # the other begins while this one fills
        decoded.append(index)
        return noise_image(index)

    def needed() -> int:
        return 1000

    caches: list[DiskCache] = []

    def first() -> None:
        caches.append(open_or_build_cache(path, 1, needed, load, skip_bad_images=False))

    def second() -> None:
        both.wait()
        caches.append(open_or_build_cache(path, 1, needed, load, skip_bad_images=False))

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caches) == 2
    assert all(np.array_equal(cache[0], noise_image(0)) for cache in caches)
    assert decoded == [0]


def test_the_name_names_everything_that_the_pixels_depend_on(tmp_path):
    files = [tmp_path / f"{i}.jpg" for i in range(3)]
    for file in files:
        file.write_bytes(b"123")
        os.utime(file, ns=(10**18, 10**18))

    def name(stored_as: bytes = b"64x64", count: int = 3) -> str:
        return fingerprint(stored_as, lambda index: files[index], count)

    before = name()
    assert name() == before
    names = [before, name(stored_as=b"96x96"), name(count=2)]
    os.utime(files[1], ns=(10**18, 10**18 + 1))
    names.append(name())
    files[1].write_bytes(b"1234")
    os.utime(files[1], ns=(10**18, 10**18))
    names.append(name())
    files[2].unlink()
    names.append(name())
    files[0] = files[0].rename(tmp_path / "other.jpg")
    names.append(name())
    assert len(set(names)) == len(names)
