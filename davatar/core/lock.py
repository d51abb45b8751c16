"""One writer per folder: a second process that would write into the same results gets an error, not a mixture.

The lock belongs to the operating system and goes with the process, so a killed job leaves none behind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from davatar.core.errors import UsageError
from davatar.core.files import check_output_folder, remove_leftovers

FILE = ".lock"


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def exclusive(folder: str | Path) -> Iterator[Path]:
    """Hold `folder` (made if absent) for writing while the block runs.

    Raises:
        UsageError: another process holds it, or a file stands there.
    """
    folder = Path(folder)
    check_output_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _try_lock(handle):
            raise UsageError(
                "another davatar process is writing there",
                file=folder,
                mend="wait for it to end, or choose another output folder",
            )
        remove_leftovers(folder)
        yield folder
    finally:
        os.close(handle)
