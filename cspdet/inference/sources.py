"""Sources of a detection run: images, folders, globs, videos, cameras and streams."""

from __future__ import annotations

import glob
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cspdet.datasets.image_io import IMAGE_SUFFIXES
from cspdet.errors import SourceError, did_you_mean, hide_credentials

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"))


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
        """The address as results and messages have it: a URL without user name and password."""
        return hide_credentials(self.address) if isinstance(self.address, str) else str(self.address)


MediaSource = ImageFile | Video


def find_all_sources(texts: Sequence[str]) -> list[MediaSource]:
    """Find the sources of several command-line arguments, in their order; a file that is named twice is used once.

    Raises:
        SourceError: See `find_sources`; or a camera or stream, which may have no end, is not the only source.
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
    if path.is_dir():
        return _scan_folder(path)
    if path.is_file():
        return [_source_from_path(path, Path(path.name))]
    if re.fullmatch(r"\d+", text):
        return [Video(int(text), Path(f"camera-{text}.mp4"))]
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return [Video(text, Path("stream.mp4"))]
    if glob.has_magic(text):
        return _scan_glob(text)
    beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    raise SourceError(f"{text}: no such image, video or folder{did_you_mean(path.name, beside)}")


def _local_name(text: str) -> str:
    """Return the path in a `file://` URL, or the text with `~` and `~user` expanded if there is such a user."""
    if text.lower().startswith("file://"):
        url = urllib.parse.urlsplit(text)
        return urllib.request.url2pathname(url.path)
    return os.path.expanduser(text)


def _scan_folder(folder: Path) -> list[MediaSource]:
    sources = [
        _source_from_path(Path(root) / name, (Path(root) / name).relative_to(folder))
        for root, names in _walk(folder)
        for name in sorted(names)
        if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
    ]
    if not sources:
        raise SourceError(f"{folder}: no image or video in this folder; known suffixes: {_known_suffixes()}")
    return sources


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for root, folders, names in os.walk(folder):
        folders.sort()  # in place: os.walk visits them in this order
        yield root, names


def _scan_glob(pattern: str) -> list[MediaSource]:
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    files = [path for path in matches if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and path.is_file()]
    if not files:
        others = f"; of its {len(matches)} matches none is an image or video ({_known_suffixes()})" if matches else ""
        raise SourceError(f"{pattern}: no file matches this pattern{others}")
    shared = Path(os.path.commonpath([path.parent.absolute() for path in files]))
    return [_source_from_path(path, path.absolute().relative_to(shared)) for path in files]


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
