"""Landmark files of recordings: the 68-point markup in pixels, from 68-point or 98-point files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from davatar.core.errors import DataError

# Point of the 98-point (WFLW) markup for each of the 68 (spec dphm 9.3).
WFLW_OF_68 = np.array(
    [*range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60),
     60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *range(76, 96)]
)  # fmt: skip


def read_landmarks(file: Path) -> np.ndarray:
    """[68, 2] px or [68, 3] m float32; rows that were not found are NaN.

    Raises:
        DataError: not a readable array, or of another shape.
    """
    points = _load(file)
    if points.shape not in ((68, 2), (68, 3)):
        raise DataError(
            f"holds an array of shape {list(points.shape)}, expected [68, 2] px or [68, 3] m",
            file=file,
            mend="store the 68-point markup, or remove the file",
        )
    return np.where(np.isfinite(points).all(axis=1, keepdims=True), points, np.float32(np.nan))


def read_wflw(file: Path) -> np.ndarray:
    """[68, 2] px float32 from a [98 k, 2] file; of several faces the first counts.

    Raises:
        DataError: not a readable array, or of another shape.
    """
    points = _load(file)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or len(points) % 98:
        raise DataError(
            f"holds an array of shape {list(points.shape)}, expected [98, 2] px",
            file=file,
            mend="detect the landmarks again",
        )
    return points[WFLW_OF_68]


def _load(file: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(file, allow_pickle=False), dtype=np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"is not a readable array: {error}", file=file, mend="write it with numpy.save") from error
