"""A zip of unknown origin -> a folder, or nothing: checked names, checked sizes, checked sums, then one rename."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from davatar.core.errors import DataError, ResourceError
from davatar.core.files import atomic_folder, disk_errors
from davatar.core.progress import Progress, silent

LARGEST_RATIO = 200  # unpacked / packed bytes over the whole archive; pictures and weights stay below 20
MOST_FILES = 10_000_000
CHUNK = 1 << 20


def unpack(archive: Path, target: Path, progress: Progress = silent) -> Path:
    """Unpack so that `target` appears whole or not at all.

    An archive whose only top-level entry is a folder gives that folder's content, else its own.

    Raises:
        DataError: no readable zip, a damaged member, or one that wants to leave the folder, is a link or
            encrypted, or unpacks to absurd size. ResourceError: not enough disk.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = _checked(zipped, archive)
            total = sum(info.file_size for info in members)
            _make_room(archive, target, total)
            inner = _single_folder(members)
            with atomic_folder(target) as folder, progress.task(f"unpack {archive.name}", total / 1e6) as task:
                for info in members:
                    path = PurePosixPath(info.filename)
                    place = folder.joinpath(*(path.parts[1:] if inner else path.parts))
                    if info.is_dir():
                        place.mkdir(parents=True, exist_ok=True)
                    else:
                        _copy(zipped, info, place)
                        task.advance(info.file_size / 1e6)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"is damaged: {error}", file=archive, mend="delete it and fetch again") from error
    return target


def _checked(zipped: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    members = zipped.infolist()
    seen: set[str] = set()
    for info in members:
        problem = _problem(info, seen)
        if problem:
            raise DataError(
                f"is not unpacked: member {info.filename!r} {problem}", file=archive, mend="get it from a trusted place"
            )
        seen.add(info.filename.rstrip("/").casefold())
    packed, unpacked = archive.stat().st_size, sum(info.file_size for info in members)
    if len(members) > MOST_FILES or unpacked > LARGEST_RATIO * max(packed, 1 << 16):
        raise DataError(
            f"is not unpacked: {packed} bytes would become {unpacked} in {len(members)} files",
            file=archive,
            mend="get it from a trusted place",
        )
    if not any(not info.is_dir() for info in members):
        raise DataError("holds no files", file=archive, mend="fetch again")
    return members


def _problem(info: zipfile.ZipInfo, seen: set[str]) -> str | None:
    name, mode = info.filename, info.external_attr >> 16
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ":" in parts[0] or ".." in parts or "\0" in name:
        return "leaves the folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a special file"
    if info.flag_bits & 1:
        return "is encrypted"
    if name.rstrip("/").casefold() in seen:
        return "is there twice"
    return None


def _single_folder(members: list[zipfile.ZipInfo]) -> bool:
    tops = {PurePosixPath(info.filename).parts[0] for info in members}
    return len(tops) == 1 and all(info.is_dir() or "/" in info.filename for info in members)


def _copy(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, place: Path) -> None:
    """One member; reading it to its end checks its sum, and no more is written than the directory promised."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(place), zipped.open(info) as source, open(place, "xb") as out:
        while block := source.read(CHUNK):
            out.write(block)
    if place.stat().st_size != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} is shorter than promised")


def _make_room(archive: Path, target: Path, total: int) -> None:
    home = target.parent
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    if total > free:
        raise ResourceError(
            f"unpacks to {total / 1e9:.1f} GB, {free / 1e9:.1f} GB are free", file=archive, mend="free space, try again"
        )
