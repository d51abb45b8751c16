"""Bringing catalogue archives into place: from the server, a mirror, or a zip that the user put there.

Everything of one archive happens beside its target: `<home>/.downloads/<name>.zip` while it comes, then one rename
of the unpacked folder. A target that exists is whole, and is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from davatar.core.errors import DataError, MissingError
from davatar.core.lock import exclusive
from davatar.core.progress import Progress, silent
from davatar.dataset.catalogue import Archive
from davatar.dataset.download import client, download, look
from davatar.dataset.unpack import unpack

State = Literal["there", "local", "remote"]


@dataclass(frozen=True)
class Step:
    """What fetching one archive would do."""

    archive: Archive
    state: State  # the folder is there; a zip lies on this machine; it must come over the network
    source: str  # the folder, the zip or the URL
    size: int | None = None  # bytes of the zip, where known


def plan(
    archives: Sequence[Archive], root: str, mirror: str | None = None, offline: bool = False, sizes: bool = False
) -> list[Step]:
    """Where each archive would come from.

    Args:
        mirror: a folder or URL laid out like the root (a folder may also hold the zips side by side).
        offline: use only what is on this machine.
        sizes: ask the server how large the files are.

    Raises:
        MissingError: offline and something is not here: the message says what to place where.
    """
    steps = [_step(archive, root, mirror) for archive in archives]
    missing = [step for step in steps if step.state == "remote"]
    if missing and (offline or (mirror and "://" not in mirror)):
        wanted = "; ".join(f"{step.source} as {step.archive.home / step.archive.file_name}" for step in missing)
        where = f"not in the mirror {mirror}" if mirror and not offline else "not on this machine"
        raise MissingError(f"{where}: {wanted}", mend="place the files there, or run without --offline")
    if not sizes:
        return steps
    with client() as http:
        return [replace(s, size=look(http, s.source).size) if s.state == "remote" else s for s in steps]


def fetch(steps: Sequence[Step], pause: float = 1.0, progress: Progress = silent) -> list[Path]:
    """Carry out a plan; returns the folders, in its order.

    Raises:
        MissingError, DataError, ResourceError, Interrupted: see `download` and `unpack`; folders that were
            finished stay, a half-loaded zip goes on next time.
    """
    done = []
    with client() as http:
        for step in steps:
            archive = step.archive
            if step.state == "remote":
                with exclusive(archive.home / ".downloads" / archive.folder) as folder:
                    part = folder / f"{archive.file_name}.part"
                    expected = {"size": archive.size, "sha256": archive.sha256}
                    download(http, step.source, part, **expected, pause=pause, progress=progress)
                    _publish(part, archive, progress)
                    part.unlink()
            elif step.state == "local":
                unpack(Path(step.source), archive.target, progress)
            done.append(archive.target)
    return done


def _publish(part: Path, archive: Archive, progress: Progress) -> None:
    """A zip that proves damaged is deleted: going on from it would never end well."""
    try:
        unpack(part, archive.target, progress)
    except DataError:
        part.unlink(missing_ok=True)
        raise


def _step(archive: Archive, root: str, mirror: str | None) -> Step:
    if archive.target.is_dir():
        return Step(archive, "there", str(archive.target))
    places = [archive.home / archive.file_name]
    if mirror and "://" not in mirror:
        places += [Path(mirror) / archive.path, Path(mirror) / archive.file_name]
    for place in places:
        if place.is_file():
            return Step(archive, "local", str(place), place.stat().st_size)
    return Step(archive, "remote", archive.url(mirror if mirror and "://" in mirror else root))
