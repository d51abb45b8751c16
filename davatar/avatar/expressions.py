"""Expressions over time, key by key: a table edited by hand, or codes drawn from a prior.

A table is a CSV file like the `arkit.csv` of a track: a column `time` (s) or `frame`, and any of the 53 weights by
name. Absent weights are 0, an empty cell sets no key, and a name without its side moves both sides. Between keys
the curves are smooth and never leave the range of the two keys around them.
"""

from __future__ import annotations

import csv
import difflib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from davatar.core.errors import DataError, MissingError
from davatar.headmodel.morphable import open_morphable

TABLE_FPS = 24.0  # what `frame` counts where a table has no times
HIGHEST = 2.0  # weights run from 0 to 1; what is beyond this is a percentage or a slip


@dataclass(frozen=True)
class Expressions:
    """
    Raises:
        DataError: no keys, or times that do not rise.
    """

    times: np.ndarray  # [K] s
    values: np.ndarray  # [K, N], NaN = no key for this number here
    kind: Literal["weights", "codes"]  # of the morphable model, or of the head model

    def __post_init__(self):
        if not len(self.times) or self.values.ndim != 2 or len(self.values) != len(self.times):
            raise DataError(f"{len(self.times)} times for expressions of shape {self.values.shape}")
        if (np.diff(self.times) <= 0).any():
            late = int(np.flatnonzero(np.diff(self.times) <= 0)[0])
            raise DataError(f"times must rise, found {self.times[late]:g} s before {self.times[late + 1]:g} s")

    def frames(self, fps: float) -> int:
        """How many frames reach from the first key to the last."""
        return round((self.times[-1] - self.times[0]) * fps) + 1

    def at(self, count: int, fps: float) -> np.ndarray:
        """[count, N] from the first key on; the last key is held."""
        from scipy.interpolate import PchipInterpolator

        when = np.minimum(self.times[0] + np.arange(count) / fps, self.times[-1])
        out = np.zeros((count, self.values.shape[1]))
        for column, values in enumerate(self.values.T):
            keyed = np.isfinite(values)
            if keyed.sum() > 1:
                times = self.times[keyed]
                out[:, column] = PchipInterpolator(times, values[keyed])(np.clip(when, times[0], times[-1]))
            elif keyed.any():
                out[:, column] = values[keyed][0]
        return out


def through_keys(codes: np.ndarray, seconds: float = 1.0) -> Expressions:
    """From rest through the codes [K, De] and back to rest, `seconds` from one to the next."""
    rest = np.zeros((1, codes.shape[1]))
    keys = np.concatenate([rest, codes, rest])
    return Expressions(np.arange(len(keys)) * seconds, keys, "codes")


def read_expressions(path: str | Path) -> Expressions:
    """
    Raises:
        MissingError: no such file.
        DataError: no times, a column that is no expression, a cell that is no number, no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError("no such table", file=path, mend="`davatar track` writes one: track/arkit.csv")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"is not text: {error}", file=path, mend="save it as CSV") from error
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=_delimiter(text)) if any(map(str.strip, row))]
    if len(rows) < 2:
        raise DataError("needs a header and at least one row", file=path)
    header = [name.strip() for name in rows[0]]
    times = _times(header, rows[1:], path)
    names = open_morphable().expression_names
    values = np.full((len(times), len(names)), np.nan)
    for column, name in enumerate(header):
        if name not in ("time", "frame", ""):
            values[:, _weights_called(name, names, path)] = _numbers(rows[1:], column, name, path)[:, None]
    if np.nanmax(np.abs(values), initial=0) > HIGHEST:
        raise DataError(
            f"holds a weight of {values.flat[np.nanargmax(np.abs(values))]:g}",
            file=path,
            mend="weights run from 0 to 1",
        )
    try:
        return Expressions(times, values, "weights")
    except DataError as error:
        raise DataError(error.message, file=path, mend="sort the rows by time, each moment once") from error


def _delimiter(text: str) -> str:
    """Spreadsheets of some languages write semicolons."""
    first = text.partition("\n")[0]
    return ";" if first.count(";") > first.count(",") else ","


def _times(header: list[str], rows: list[list[str]], path: Path) -> np.ndarray:
    for name, scale in (("time", 1.0), ("frame", 1 / TABLE_FPS)):
        if name in header:
            times = _numbers(rows, header.index(name), name, path) * scale
            if np.isnan(times).any():
                raise DataError(f"row {np.flatnonzero(np.isnan(times))[0] + 2} has no {name}", file=path)
            return times
    raise DataError("has neither a column time nor a column frame", file=path, mend="add time, in seconds")


def _numbers(rows: list[list[str]], column: int, name: str, path: Path) -> np.ndarray:
    """[K], NaN where the cell is empty."""
    out = np.full(len(rows), np.nan)
    for k, row in enumerate(rows):
        cell = row[column].strip() if column < len(row) else ""
        if not cell:
            continue
        try:
            out[k] = float(cell)
        except ValueError as error:
            raise DataError(f"row {k + 2}, column {name}: {cell!r} is no number", file=path) from error
        if not np.isfinite(out[k]):
            raise DataError(f"row {k + 2}, column {name}: {cell} is not finite", file=path)
    return out


def _weights_called(name: str, names: tuple[str, ...], path: Path) -> list[int]:
    found = [k for k, known in enumerate(names) if known in (name, f"{name}_L", f"{name}_R")]
    if not found:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
        mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise DataError(f"column {name!r} is no expression", file=path, mend=mend)
    return found
