"""Sources of a detection run: images, folders, globs, videos, cameras and streams."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.errors import SourceError, did_you_mean, hide_credentials
from cspdet.io.walk import FoundFiles, find_files

log = logging.getLogger("cspdet")

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"))


MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    Attributes:
        path: The file.
        name: Path relative to the searched folder or glob.
    """

    path: Path
    name: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Video:
    """A video file, camera or stream.

    Attributes:
        address: The file, the index of the camera, or the URL of the stream.
        name: File name of the output video.
    """

    address: Path | int | str
    name: Path

    def __str__(self) -> str:
        return f"camera {self.address}" if isinstance(self.address, int) else self.source

    @property
    def source(self) -> str:
        """The address as text for results and messages; a URL has no user name and no password."""
        return (
            hide_credentials(self.address.replace(" ", "%20")) if isinstance(self.address, str) else str(self.address)
        )


MediaSource = ImageFile | Video


def find_all_sources(texts: Sequence[str]) -> list[MediaSource]:
    """Find the sources of several command-line arguments, in their order; a file that is named twice is used once.

    Raises:
        SourceError: A path does not exist, no image or video was found, or a camera is not the only source.
    """
    unique: dict[str, MediaSource] = {}
    for source in (source for text in texts for source in find_sources(text)):
        address = source.path if isinstance(source, ImageFile) else source.address
        unique.setdefault(os.path.abspath(address) if isinstance(address, Path) else str(source), source)
    sources = list(unique.values())
    live = [source for source in sources if isinstance(source, Video) and isinstance(source.address, int)]
    if live and len(sources) > 1:
        raise SourceError(f"{live[0]}: expected a camera as the only source, found {len(sources)} sources")
    return sources


def find_sources(text: str) -> list[MediaSource]:
    """Find the sources of a command-line argument, sorted by path.

    Args:
        text: A file, a folder (searched with its subfolders), a glob, a camera index, or a URL.

    Raises:
        SourceError: The path does not exist, or no image or video was found.
    """
    text = _local_name(text)
    path = Path(text)
    if os.path.isdir(path):
        return _scan_folder(path)
    if os.path.isfile(path):
        return [_source_from_path(path, Path(path.name))]
    if re.fullmatch(r"\d+", text):
        return [Video(int(text), Path(f"camera-{text}.mp4"))]
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return [Video(text, Path("stream.mp4"))]
    if glob.has_magic(text):
        return _scan_glob(str(path))
    if os.path.lexists(path):
        raise SourceError(f"{text}: expected a file, found a named pipe, socket, device or broken link")
    beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    raise SourceError(f"{text}: no such image, video or folder{did_you_mean(path.name, beside)}")


def _local_name(text: str) -> str:
    """Return the path in a `file://` URL, or the text with `~` and `~user` expanded if there is such a user."""
    if text.lower().startswith("file://"):
        url = urllib.parse.urlsplit(text)
        return urllib.request.url2pathname(url.path)
    return os.path.expanduser(text)


def _scan_folder(folder: Path) -> list[MediaSource]:
    found = _search(folder)
    for line in (*found.skipped(), *(f"folder cannot be read: {name}" for name in found.unreadable)):
        log.warning("%s: %s", folder, line)
    if not found.names:
        raise SourceError(f"{folder}: no image or video in this folder; known suffixes: {_known_suffixes()}")
    return [_source_from_path(folder / name, Path(name)) for name in found.names]


def _search(folder: Path) -> FoundFiles:
    try:
        return find_files(folder, MEDIA_SUFFIXES)
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read: {error.strerror or error}") from None


def _scan_glob(pattern: str) -> list[MediaSource]:
    matches = sorted(_match_glob(pattern))
    files = [path for path in matches if path.suffix.lower() in MEDIA_SUFFIXES and os.path.isfile(path)]
    if not files:
        others = f"; of its {len(matches)} matches none is an image or video ({_known_suffixes()})" if matches else ""
        raise SourceError(f"{pattern}: no file matches this pattern{others}")
    shared = Path(os.path.commonpath([path.parent.absolute() for path in files]))
    return [_source_from_path(path, path.absolute().relative_to(shared)) for path in files]


def _match_glob(pattern: str) -> Iterator[Path]:
    """Yield the files that match a glob. For `**`, each folder is read once, so cyclic links cannot repeat forever."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from map(Path, glob.glob(pattern))
        return
    at = parts.index("**")
    start = str(Path(*parts[:at]))
    for folder in map(Path, glob.glob(start) if glob.has_magic(start) else [start]):
        if folder.is_dir():
            found = _search(folder)
            for name in found.names + found.other_suffixes:
                if _matches(name.split("/"), parts[at:]):
                    yield folder / name


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a pattern; `**` matches any number of parts."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return len(patterns) == 1 or any(_matches(names[i:], patterns[1:]) for i in range(len(names)))
    return bool(names) and fnmatch.fnmatch(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


def _source_from_path(path: Path, name: Path) -> MediaSource:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Video(path, name)
    if suffix in IMAGE_SUFFIXES:
        return ImageFile(path, name)
    raise SourceError(
        f"{path}: expected an image or video, found the suffix {suffix!r}; known suffixes: {_known_suffixes()}"
    )


def _known_suffixes() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES)) + " " + " ".join(sorted(VIDEO_SUFFIXES))
