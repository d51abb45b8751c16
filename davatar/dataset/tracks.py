"""From a track's folder back to the recording that it was fitted to."""

from __future__ import annotations

from pathlib import Path

from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json
from davatar.headmodel.track import Track


def check_track(folder: Path) -> None:
    """
    Raises:
        MissingError: there is no such folder, or no track in it.
    """
    if not (folder / "track.npz").is_file():
        raise MissingError("no such track", file=folder, mend="give the folder that `davatar track` wrote")


def recording_of(folder: Path, track: Track | None = None) -> Path:
    """The recording's path: what `track.json`, or the track's settings, say under `capture`.

    Raises:
        MissingError: there is no such track, and none is given.
        DataError: nothing is said, or the recording is not there any more.
    """
    folder = Path(folder)
    if track is None:
        check_track(folder)
    about = read_json(folder / "track.json") if (folder / "track.json").is_file() else {}
    said = about.get("capture") or (track.settings.get("capture") if track else None)
    if said is None:
        raise DataError("does not say which recording it was made from", file=folder, mend="name it with --capture")
    path = Path(said) if Path(said).is_absolute() else folder / said
    if not path.exists():
        raise DataError(f"was made from {path}, which is gone", file=folder, mend="name its new place with --capture")
    return path
