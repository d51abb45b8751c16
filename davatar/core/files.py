"""Atomic files: a reader sees the old file or the new one, never half of one (design 3).

Every write goes to a hidden temporary beside its target, is flushed to disk, then renamed. A killed
process leaves its temporary behind; `remove_leftovers` clears those of dead processes.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from davatar.core.errors import DataError, ResourceError, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_HOST = re.sub(r"\W", "-", platform.node())
_LEFTOVER = re.compile(rf"\..*\.{re.escape(_HOST)}\.(\d+)\.[^.]+\.part(\..*)?$")


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """
    Raises:
        ResourceError: the block ran out of disk while writing `path`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceError("the disk is full", file=path, mend="free space and run the command again") from error
        raise


def check_output_file(path: str | Path) -> None:
    """
    Raises:
        UsageError: no file can be written at `path`: it is a folder, or a file stands where its folder would be.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError("is a folder, but a file is to be written", file=path, mend="name a file, e.g. one in it")
    check_output_folder(path.parent)


def check_output_folder(path: str | Path) -> None:
    """
    Raises:
        UsageError: `path` cannot be a folder: it, or something above it, is a file.
    """
    path = Path(path)
    there = next(above for above in (path, *path.absolute().parents) if above.exists())
    if not there.is_dir():
        raise UsageError("is a file, but a folder is needed there", file=there, mend="name another output folder")


def _prefix(path: Path) -> str:
    return f".{path.stem[:100]}.{_HOST}.{os.getpid()}."


def _sync(path: Path, flags: int = os.O_RDONLY) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows has no handle for a folder; there the rename itself is durable
        _sync(folder)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix) that becomes `path` when the block ends without error.

    Raises:
        ResourceError: the disk is full; `path` is as it was before.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=f".part{path.suffix}")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary, os.O_RDWR)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends without error; an existing `path` is replaced.

    Raises:
        ResourceError: the disk is full; `path` is as it was before.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix=".part"))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file, os.O_RDWR)
            os.chmod(temporary, 0o755)
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: str | Path) -> None:
    """Delete temporaries below `folder` that a killed process of this machine left behind."""
    for path in list(Path(folder).rglob(".*.part*")):
        found = _LEFTOVER.fullmatch(path.name)
        if found and not _alive(int(found[1])):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # no harmless probe there: leave the file
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_bytes(path: str | Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=4) + "\n")


def read_json(path: str | Path, mend: str | None = None) -> Any:
    """
    Args:
        mend: what to do about a file that is absent or broken.

    Raises:
        DataError: the file is absent, is not UTF-8 text, or is not JSON (then with line and column).
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError("is missing", file=path, mend=mend) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"is not valid JSON at {where}: {error.msg}", file=path, mend=mend) from error
    except UnicodeDecodeError as error:
        raise DataError("is not valid JSON: it is no UTF-8 text", file=path, mend=mend) from error


def append_line(path: str | Path, line: str) -> None:
    """Add one line to a text file and flush it to disk; half a line that a crash left is ended first."""
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def read_lines(path: str | Path) -> list[Any]:
    """The JSON values of a `.jsonl` file; none if it is absent, and lines that a crash cut are left out."""
    path = Path(path)
    values = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            values.append(json.loads(line))
        except ValueError:
            continue
    return values
