"""Download of the files of a model, with mirrors and verified hashes."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from cspdet.errors import UserError
from cspdet.io.atomic import atomic_write
from cspdet.io.fetch import CHUNK_BYTES, OFFLINE_VARIABLE, fetch, is_offline, remove_partial
from cspdet.zoo.cache import HOME_VARIABLE, read_recorded_hashes, record_hashes, zoo_folder
from cspdet.zoo.catalogue import ZooEntry, ZooFile

MAX_ATTEMPTS = 5
RETRY_DELAY_S = 5.0

log = logging.getLogger("cspdet")


def download_files(name: str, entry: ZooEntry, *, copies: Sequence[Path] = ()) -> Path:
    """Verify the size and the hashes of all files of a model, and download the missing and the damaged files.

    Args:
        name: Name of the model.
        entry: The model.
        copies: Files that the user has, under their published names; they are copied instead of downloaded.

    Returns:
        The folder of the files.

    Raises:
        UserError: CSPDET_OFFLINE is set and a file is missing, no address sends the expected file, or a copy is wrong.
    """
    folder = zoo_folder() / name
    copy_of = _match_copies(entry, copies)
    for file in entry.files:
        path = folder / file.name
        if file.name in copy_of:
            _copy(name, file, copy_of[file.name], path)
        elif not path.is_file() or verification_error(name, file, path) is not None:
            path.unlink(missing_ok=True)
            _download(name, file, path)
    return folder


def _match_copies(entry: ZooEntry, copies: Sequence[Path]) -> dict[str, Path]:
    """Return the copies by file name; raise UserError if no file of the model has the name of a copy."""
    expected = [file.name for file in entry.files]
    for path in copies:
        if path.name not in expected:
            raise UserError(f"--file: expected a file named {', '.join(expected)}, found {path}")
    return {path.name: path for path in copies}


def record_new_hashes(name: str, entry: ZooEntry) -> None:
    """Record the SHA-256 of each file without a published hash. Call this only after the model was loaded."""
    recorded = read_recorded_hashes()
    new = {
        key: _digest(zoo_folder() / name / file.name, "sha256")
        for file in entry.files
        if not file.hashes and (key := f"{name}/{file.name}") not in recorded
    }
    if new:
        record_hashes(new)


def discard_unverified(name: str, entry: ZooEntry) -> None:
    """Remove the files of a model that have neither a published nor a recorded hash, after they could not be loaded."""
    recorded = read_recorded_hashes()
    for file in entry.files:
        if not file.hashes and f"{name}/{file.name}" not in recorded:
            (zoo_folder() / name / file.name).unlink(missing_ok=True)


@contextmanager
def lock_model(name: str) -> Iterator[None]:
    """Lock the folder of a model; wait until no other process fetches the same model.

    Raises:
        UserError: The cache cannot be written.
    """
    folder = zoo_folder() / name
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: cannot be written: {reason}; {HOME_VARIABLE} names another cache folder") from None
    try:
        yield
    finally:
        lock.release()


def verification_error(name: str, file: ZooFile, path: Path) -> str | None:
    """Return how a file differs from its published size and hashes, or from its recorded hash; None if it is correct.

    Args:
        name: Name of the model.
        file: The expected file.
        path: The file to verify.
    """
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return f"expected {file.bytes} bytes, found {size}"
    for algorithm, expected in file.hashes.items():
        found = _digest(path, algorithm)
        if found != expected:
            return f"expected {algorithm} {expected}, found {found}"
    recorded = read_recorded_hashes().get(f"{name}/{file.name}")
    if recorded is not None and not file.hashes and (found := _digest(path, "sha256")) != recorded:
        return (
            f"expected sha256 {recorded}, which the first fetch recorded in {zoo_folder() / 'hashes.json'}, "
            f"found {found}; remove its line if the source has published a new file"
        )
    return None


def _copy(name: str, file: ZooFile, source: Path, path: Path) -> None:
    if not source.is_file():
        raise UserError(f"--file: {source}: no such file")
    error = verification_error(name, file, source)
    if error is not None:
        raise UserError(f"--file: {source}: {error}")
    with atomic_write(path) as tmp_path:
        shutil.copyfile(source, tmp_path)


def _download(name: str, file: ZooFile, path: Path) -> None:
    """Download a file from the first address that sends the expected content."""
    hint = _check_allowed(name, file)
    problems: list[str] = []
    unverified = path.with_name(f"{path.name}.unverified")
    for url in file.urls:
        if problems:
            log.warning("%s; trying the next address", problems[-1])
        unverified.unlink(missing_ok=True)
        if not file.hashes:
            remove_partial(unverified, url)  # without a hash, nothing shows that a continued file is of one piece
        try:
            fetch(url, unverified, file.bytes, max_attempts=MAX_ATTEMPTS, retry_delay_s=RETRY_DELAY_S, hint=hint)
        except UserError as error:
            problems += error.problems
            continue
        failure = verification_error(name, file, unverified)
        if failure is None:
            unverified.replace(path)
            return
        unverified.unlink()
        problems.append(f"{url}: {failure}; the downloaded file was removed")
    raise UserError(*problems)


def _check_allowed(name: str, file: ZooFile) -> str:
    """Return the hint for a failed download; raise UserError if downloads are forbidden or no address is known."""
    if is_offline():
        raise UserError(f"{name}: {file.name} is not in the cache, and {OFFLINE_VARIABLE} forbids downloads")
    hint = f"; with a copy of the file: `cspdet fetch {name} --file {file.name}`"
    if not file.urls:
        raise UserError(f"{name}: no address of {file.name} is known{hint}")
    return hint


def _digest(path: Path, algorithm: str) -> str:
    """Return the hash of a file in hexadecimal digits."""
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()
