"""How many frames of a track show one second, where its files say so.

`davatar track` writes the time of every frame into arkit.csv, in s; a track inside a data set has only its arrays, and
`fps` among its settings if whoever wrote it said so.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from davatar.headmodel.track import Track

TABLE = "arkit.csv"


def rate_of_folder(path: str | Path) -> float | None:
    """Frames per second of a track's folder (or of its track.npz); None where no table tells."""
    path = Path(path)
    table = (path if path.is_dir() else path.parent) / TABLE
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            times = [float(row["time"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError):  # absent, or edited into something else
        return None
    return _rate(1.0, times)


def rate_of_track(track: Track, frames: Sequence[int]) -> float | None:
    """Frames per second of some of a track's frames; None where its settings do not tell.

    Args:
        frames: numbers in the recording, rising.
    """
    fps = track.settings.get("fps")
    return _rate(float(fps), frames) if isinstance(fps, int | float) else None


def _rate(per_unit: float, when: Sequence[float]) -> float | None:
    """`per_unit` over the usual distance of neighbours."""
    steps = np.diff(np.asarray(when, float))
    usual = float(np.median(steps)) if len(steps) else 0.0
    return round(per_unit / usual, 3) if usual > 0 and per_unit > 0 else None
