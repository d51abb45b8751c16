"""One file over HTTP: streamed to disk, resumed where it stopped, begun anew when it changed on the server.

The part and a note beside it (`.json`: validator and size) stay until the file is whole. A range request carries
If-Range, so that a changed file comes as a whole (200) and not as the end of another one.
"""

from __future__ import annotations

import hashlib
import shutil
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from davatar.core.errors import DataError, MissingError, ResourceError
from davatar.core.files import disk_errors, read_json, write_json
from davatar.core.interrupt import interruptible
from davatar.core.progress import Progress, silent

ATTEMPTS = 6  # in a row without a byte gained
RESUME = "run the same command again: the bytes that came are kept"
TIMEOUT = httpx.Timeout(30.0)


class _Again(Exception):
    """Worth another attempt: the connection broke, or the server is busy."""


@dataclass(frozen=True)
class Remote:
    size: int | None  # bytes, None = the server does not tell
    validator: str | None  # strong ETag or date for If-Range


def client() -> httpx.Client:
    """Follows redirects; asks for the bytes as they are, because ranges count stored bytes."""
    return httpx.Client(timeout=TIMEOUT, follow_redirects=True, headers={"Accept-Encoding": "identity"})


def look(http: httpx.Client, url: str) -> Remote:
    """Size and validator without the content.

    Raises:
        MissingError: not there, not allowed, or no connection.
    """
    try:
        response = http.head(url)
        _refuse(response, url)
    except (httpx.HTTPError, ssl.SSLError, _Again) as error:
        raise _unreachable(url, error) from error
    return _remote(response)


def download(
    http: httpx.Client,
    url: str,
    part: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    pause: float = 1.0,
    progress: Progress = silent,
) -> Path:
    """Bring `url` to `part`, going on from the bytes that are there.

    Args:
        size, sha256: what the finished file must have, where known.
        pause: s before the second attempt; later ones wait longer.

    Returns:
        `part`, whole and checked.

    Raises:
        MissingError: the server does not have it, refuses it or stays unreachable; the part is kept.
        DataError: the finished file is not the expected one; the part is deleted.
        ResourceError: the disk is full, or would be. Interrupted: by a signal; the part is kept.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    note = part.with_name(part.name + ".json")
    attempts = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=pause, max=30) + wait_random(0, pause),
        retry=retry_if_exception_type(_Again),
    )
    with interruptible(RESUME) as stop:
        whole = False
        while not whole:
            before = _size(part)
            try:
                for attempt in attempts:
                    with attempt:
                        whole = _continue(http, url, part, note, stop, progress)
            except RetryError as error:
                if _size(part) > before:
                    continue  # slow but moving
                raise _unreachable(url, error.last_attempt.exception()) from error
    _check(part, note, url, size, sha256)
    note.unlink(missing_ok=True)
    return part


def _continue(http: httpx.Client, url: str, part: Path, note: Path, stop: Any, progress: Progress) -> bool:
    """One request; True when the file is whole."""
    stop.check(RESUME)
    have = _size(part)
    known = _known(note) if have else {}
    headers = {"Range": f"bytes={have}-"} if known.get("url") == url else {}
    if headers and known["validator"]:
        headers["If-Range"] = known["validator"]
    try:
        with http.stream("GET", url, headers=headers) as response:
            if response.status_code == 416:
                if known.get("size") == have:
                    return True
                part.unlink(missing_ok=True)
                raise _Again("the part is longer than the file")
            _refuse(response, url)
            goes_on = response.status_code == 206 and _first_byte(response) == have
            if response.status_code == 206 and not goes_on:
                part.unlink(missing_ok=True)
                raise _Again("the server sent another range")
            start = have if goes_on else 0
            remote = _remote(response, start)
            _make_room(part, remote, start)
            write_json(note, {"url": url, "size": remote.size, "validator": remote.validator})
            return _stream(response, part, start, remote.size, stop, progress)
    except (httpx.TransportError, ssl.SSLError) as error:
        raise _Again(str(error) or type(error).__name__) from error


def _known(note: Path) -> dict[str, Any]:
    """What is known of the file that the part was begun from; empty if the note is lost or damaged."""
    try:
        return read_json(note)
    except DataError:
        return {}


def _stream(response: httpx.Response, part: Path, start: int, size: int | None, stop: Any, progress: Progress) -> bool:
    label = f"fetch {part.name.removesuffix('.part')} (MB)"
    with disk_errors(part), open(part, "ab" if start else "wb") as file, progress.task(
        label, None if size is None else size / 1e6
    ) as task:  # fmt: skip
        task.advance(start / 1e6)
        for chunk in response.iter_raw():
            file.write(chunk)
            task.advance(len(chunk) / 1e6)
            if stop.requested:
                file.flush()
                stop.check(RESUME)
    if size is not None and _size(part) < size:
        raise _Again("the connection ended early")
    return True


def _remote(response: httpx.Response, start: int = 0) -> Remote:
    length = response.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    etag = response.headers.get("ETag")
    strong = etag if etag and not etag.startswith("W/") else None
    return Remote(total, strong or response.headers.get("Last-Modified"))


def _first_byte(response: httpx.Response) -> int | None:
    """Of `Content-Range: bytes 500-999/1000`."""
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first = span.split("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else None


def _refuse(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status < 400 or status == 416:
        return
    if status in (408, 425, 429) or status >= 500:
        raise _Again(f"the server answers {status}")
    if status in (401, 403):
        raise MissingError(f"access is refused ({status})", file=url, mend="accept the terms of use, or use --mirror")
    raise MissingError(f"the server answers {status}", file=url, mend="check the address, or use --mirror")


def _make_room(part: Path, remote: Remote, start: int) -> None:
    if remote.size is None:
        return
    needed, free = 2 * remote.size - start, shutil.disk_usage(part.parent).free
    if needed > free:
        raise ResourceError(
            f"needs about {needed / 1e9:.1f} GB to download and unpack, {free / 1e9:.1f} GB are free",
            file=part.parent,
            mend="free space, or set DAVATAR_DATA / DAVATAR_MODELS to another disk",
        )


def _check(part: Path, note: Path, url: str, size: int | None, sha256: str | None) -> None:
    found = _size(part)
    wrong = None
    if size is not None and found != size:
        wrong = f"has {found} bytes, expected {size}"
    elif sha256 is not None and (digest := _digest(part)) != sha256.lower():
        wrong = f"has sha256 {digest}, expected {sha256.lower()}"
    if wrong:
        part.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
        raise DataError(wrong, file=url, mend="fetch again; if it stays so, the file on the server has changed")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _unreachable(url: str, error: BaseException | None) -> MissingError:
    return MissingError(
        f"cannot be reached: {error}", file=url, mend="try again later: what came is kept; or use --mirror, --offline"
    )
