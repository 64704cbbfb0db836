"""Unpack zip archives atomically, and only inside the output folder."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from cspdet.errors import DataError, UserError
from cspdet.io.atomic import atomic_write

# More bytes than both, the second times the size of the archive, are a zip bomb: deflate reaches 1000, JSON about 20
MIN_BOMB_BYTES, MAX_EXPANSION = 100_000_000, 200
# zipfile and its decoders raise these for damaged archives.
CORRUPT_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError, LookupError,
    OverflowError,
)  # fmt: skip


def unpack_zip(
    archive: Path,
    output: Path,
    *,
    folder: str | None = None,
    num_files: int | None = None,
    files: Sequence[str] = (),
) -> None:
    """Unpack a folder and individual files of an archive.

    Members keep their relative paths below `output`. Their CRCs are checked. The folder is unpacked under a temporary
    name and renamed when it is complete.

    Args:
        archive: The zip file.
        output: The folder to unpack into.
        folder: Top-level folder of the archive to unpack; None: no folder.
        num_files: Expected number of files in `folder`; None: not checked.
        files: Names of single members to unpack.

    Raises:
        DataError: The archive is not a zip file, is corrupt, is a zip bomb, lacks a requested member, or contains an
            unsafe path.
        UserError: The disk has too little free space, or a file cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            listed = [member for member in zipped.infolist() if not member.is_dir()]
            for member in listed:
                _check_member_path(archive, member)
            members = {member.filename: member for member in listed}
            if len(members) < len(listed):
                raise DataError(f"{archive}: unsafe archive: several members have the same name")
            _check_total_size(archive, output, members.values())
            absent = [name for name in files if name not in members]
            if absent:
                raise DataError(f"{archive}: does not contain {absent[0]}")
            if folder is not None:
                _unpack_folder(zipped, archive, output, folder, num_files, members)
            for name in files:
                with atomic_write(output / name) as tmp_path:
                    _extract(zipped, members[name], tmp_path)
    except CORRUPT_ZIP_ERRORS as error:
        raise DataError(f"{archive}: corrupt archive: {error}; delete it and run the command again") from None
    except OSError as error:
        if error.errno is None:  # of the decoder of bzip2
            raise DataError(f"{archive}: corrupt archive: {error}; delete it and run the command again") from None
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from None


def _check_member_path(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    unsafe = not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]
    if unsafe or stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{archive}: unsafe member {member.filename!r}: it would be written outside the output folder")


def _check_total_size(archive: Path, output: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    """Raise DataError for a zip bomb, and UserError if the unpacked files exceed the free disk space.

    The sizes are those that the archive declares: zipfile unpacks no more bytes than a member declares.
    """
    total, packed = sum(member.file_size for member in members), archive.stat().st_size
    if total > max(MIN_BOMB_BYTES, MAX_EXPANSION * packed):
        raise DataError(f"{archive}: its members have {total} bytes, more than {MAX_EXPANSION} times the archive")
    base = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.is_dir())
    if total > (free := shutil.disk_usage(base).free):
        raise UserError(f"{output}: {total / 1e9:.1f} GB are needed to unpack {archive}, {free / 1e9:.1f} GB are free")


def _unpack_folder(
    zipped: zipfile.ZipFile,
    archive: Path,
    output: Path,
    folder: str,
    num_files: int | None,
    members: dict[str, zipfile.ZipInfo],
) -> None:
    inside = {name: member for name, member in members.items() if PurePosixPath(name).parts[0] == folder}
    if num_files is not None and len(inside) != num_files:
        raise DataError(f"{archive}: expected {num_files} files in {folder}/, found {len(inside)}")
    tmp_folder = output / f".{folder}.{os.getpid()}.part"
    try:
        for name, member in inside.items():
            target = tmp_folder.joinpath(*PurePosixPath(name).parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            _extract(zipped, member, target)
        if (output / folder).is_dir():
            (output / folder).rmdir()  # fails unless it is empty
        tmp_folder.rename(output / folder)
    finally:
        shutil.rmtree(tmp_folder, ignore_errors=True)


def _extract(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Write a member to a file; zipfile checks the CRC at the end of the member."""
    with zipped.open(member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
