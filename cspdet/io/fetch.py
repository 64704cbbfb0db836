"""Download a file over HTTP, with resume, retries, verified size and a progress bar."""

from __future__ import annotations

import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from cspdet.errors import UserError
from cspdet.io.atomic import write_text
from cspdet.io.progress import is_interactive
from cspdet.io.terminal import escape_line

OFFLINE_VARIABLE = "CSPDET_OFFLINE"
CHUNK_BYTES = 1 << 20
LOG_INTERVAL_S = 15.0
MAX_LENGTH_DIGITS = 15  # of Content-Length: a petabyte

log = logging.getLogger("cspdet")


def is_offline() -> bool:
    """Return whether CSPDET_OFFLINE forbids all downloads and uploads."""
    return os.environ.get(OFFLINE_VARIABLE, "0") not in ("", "0")


def partial_path(file: Path) -> Path:
    """Return the path of the partial download of `file`."""
    return file.with_name(f"{file.name}.part")


def remove_partial(file: Path, url: str) -> None:
    """Remove the partial download of `file`, unless its version is known, so that it can be resumed."""
    part = partial_path(file)
    if not _version_of_part(part, url):
        part.unlink(missing_ok=True)


def file_size(file: Path) -> int:
    """Return the file size in bytes; 0 if the file does not exist."""
    return file.stat().st_size if file.is_file() else 0


def fetch(
    url: str, file: Path, size: int | None, *, max_attempts: int = 10, retry_delay_s: float = 5.0, hint: str = ""
) -> bool:
    """Download a file. If `file`.part exists, resume this download.

    Args:
        url: Address of the file; `http_proxy`, `https_proxy` and `no_proxy` of the environment are used.
        file: Output path; an existing file of the expected size is kept.
        size: Expected size in bytes; None: any.
        max_attempts: Maximum number of attempts. A download that has received no data is not retried.
        retry_delay_s: Seconds between attempts.
        hint: End of the error message if nothing was received.

    Returns:
        Whether the file was downloaded; False if it existed.

    Raises:
        UserError: The server is unreachable, responds with an error or a web page, interrupts the transfer too often,
            or declares another size; or the file cannot be written.
    """
    if file.is_file() and (size is None or file.stat().st_size == size):
        return False
    part = partial_path(file)
    if part.is_symlink():
        raise UserError(f"{part}: is a symbolic link, through which nothing is written; expected a file or nothing")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file_size(part)
        for attempt in range(1, max_attempts + 1):
            reason = _try_download(url, part, size)
            if reason is None:
                part.replace(file)
                _version_file(part).unlink(missing_ok=True)
                return True
            if attempt == max_attempts or file_size(part) == before:
                break  # no data received: further attempts are pointless
            log.warning("%s: %s; trying again (%d of %d)", url, reason, attempt + 1, max_attempts)
            time.sleep(retry_delay_s)
    except OSError as error:
        raise UserError(f"{part}: cannot be written: {error.strerror or error}") from None
    received = file_size(part)
    if received:
        hint = f"; {received} bytes are kept in {part}, run the command again to resume"
    raise UserError(f"{url}: download failed: {reason}{hint}")


def _version_file(part: Path) -> Path:
    """Return the path of the file with the address and the version (ETag or date) of a partial download."""
    return part.with_name(f"{part.name}.version")


def _version_of_part(part: Path, url: str) -> str:
    """Return the version that the server named when the download from `url` began; empty if it is unknown."""
    try:
        address, _, version = _version_file(part).read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return ""
    return version if address == url and part.is_file() else ""


def _store_version(part: Path, url: str, version: str) -> None:
    if version.isascii() and version.isprintable():
        write_text(_version_file(part), f"{url}\n{version}")


def _try_download(url: str, part: Path, size: int | None) -> str | None:
    """Download the rest of `part`. Return None if it is complete, else the reason why it is not."""
    received = file_size(part)
    if received and received == size:
        return None
    if size is not None and received > size:
        part.unlink()
        received = 0
    headers = {"Range": f"bytes={received}-"} if received else {}
    version = _version_of_part(part, url)
    if received and version:
        headers["If-Range"] = version  # if the file has changed, the server sends all of the new one
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and received:  # range not satisfiable: the partial file is of another file, so restart
            part.unlink()
            return _try_download(url, part, size)
        if error.code >= 500:
            return f"the server responded {error.code} {error.reason}"
        raise UserError(f"{url}: the server responded {error.code} {error.reason}") from None
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
        ValueError,
    ) as error:
        return f"the server cannot be reached ({getattr(error, 'reason', error)})"
    with response:
        if response.status != 206:
            received = 0  # the server sends the whole file
        if (response.headers.get("Content-Type") or "").startswith("text/html"):  # such as a login page
            raise UserError(f"{url}: expected the file, the server sent a web page (text/html)")
        total = received + _content_length(url, response)
        if size is not None and total != size:
            raise UserError(f"{url}: expected {size} bytes, the server announces {total}; is it the official file?")
        if not received:
            _store_version(part, url, response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
        return _write_response(response, part, received, total)


def _content_length(url: str, response: http.client.HTTPResponse) -> int:
    """Return the Content-Length of a response in bytes; raise UserError if it is missing or invalid."""
    text = response.headers.get("Content-Length") or ""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_LENGTH_DIGITS):
        found = f"found {text[:MAX_LENGTH_DIGITS]!r}" if text else "it is missing"
        raise UserError(f"{url}: expected a number of bytes in the header Content-Length, {found}")
    return int(text)


def _write_response(response: http.client.HTTPResponse, part: Path, received: int, total: int) -> str | None:
    last_log_time = time.monotonic()
    bar = tqdm(
        total=total, initial=received, desc=escape_line(part.stem), unit="B", unit_scale=True, leave=False,
        disable=not is_interactive(),
    )  # fmt: skip
    with part.open("ab" if received else "wb") as out, bar:
        while True:
            try:
                data = response.read1(CHUNK_BYTES)  # what has arrived: little is lost if the process is killed
            except (http.client.HTTPException, TimeoutError, ConnectionError):
                break
            if not data:
                break
            out.write(data)
            bar.update(len(data))
            received += len(data)
            if bar.disable and time.monotonic() - last_log_time > LOG_INTERVAL_S:
                last_log_time = time.monotonic()
                log.info("%s: %.2f of %.2f GB", part.stem, received / 1e9, total / 1e9)
    if received < total:
        return f"the connection ended after {received} of {total} bytes"
    return None
