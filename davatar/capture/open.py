"""`open_capture`: any recording, through the plugins of group `davatar.captures` (design 6)."""

from __future__ import annotations

from pathlib import Path

from davatar.capture.frame import Capture
from davatar.core import plugins
from davatar.core.errors import DataError, MissingError
from davatar.core.progress import Progress, silent

GROUP = "davatar.captures"


def open_capture(path: str | Path, progress: Progress = silent) -> Capture:
    """The recording at `path`: the first reader that knows its layout takes it.

    Args:
        progress: hears what the reader guessed or found incomplete.

    Raises:
        MissingError: nothing is there, or a reader does not import.
        DataError: no reader knows the layout, or the recording is broken.
    """
    path = Path(path)
    if not path.exists():
        mend = "give the folder that holds depth/ and intrinsics.json; `davatar data record` makes one"
        raise MissingError("no such recording", file=path, mend=mend)
    if path.is_dir() and not any(path.iterdir()):
        raise DataError("the folder is empty", file=path, mend="give the folder that holds depth/ and intrinsics.json")
    known = plugins.names(GROUP)
    for name in known:
        capture = plugins.load(GROUP, name)(path)
        if capture is not None:
            for warning in capture.provenance.get("warnings", ()):
                progress.warn(f"{capture.name}: {warning}")
            return capture
    raise DataError(
        f"is no recording of a known layout ({', '.join(known) or 'no reader is installed'})",
        file=path,
        mend="a plain RGB-D folder holds depth/00000.png, intrinsics.json and meta.json",
    )
