"""What every check of a fixture yields, and what a check is.

A fixture is recognised by its section letter and its content, not by a fixed list of file names, so that
folders with other seeds or other widths verify too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """One quantity of one fixture: the largest error beside what is tolerated."""

    fixture: str  # file, relative to the verified folder
    quantity: str  # e.g. "sdf, float32"
    error: float  # largest absolute difference, or relative where `relative`; NaN when it could not be computed
    tolerance: float
    relative: bool = False  # error and tolerance are shares of the largest expected magnitude

    @property
    def holds(self) -> bool:
        return bool(self.error <= self.tolerance)  # NaN does not hold


@dataclass(frozen=True)
class Check:
    """One kind of fixture: how to recognise it and how to recompute it."""

    section: str  # "dphm A", "diffusion-avatars E", ...
    recognises: Callable[[Path], bool]  # file (.npz, .json, ...) -> it is of this kind; must not raise on foreign files
    run: Callable[[Path], Iterable[Comparison]]  # file -> its comparisons, `fixture` holding the file's name


def compare(
    fixture: str, quantity: str, found: np.ndarray, expected: np.ndarray, tolerance: float, relative: bool = False
) -> Comparison:
    """The largest difference of two arrays; a difference of shape or a NaN on one side only never holds."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape or (np.isnan(found) != np.isnan(expected)).any():
        return Comparison(fixture, quantity, float("nan"), tolerance, relative)
    error = float(np.nanmax(np.abs(found - expected), initial=0.0))
    if relative:
        error /= max(float(np.nanmax(np.abs(expected), initial=0.0)), 1e-30)
    return Comparison(fixture, quantity, error, tolerance, relative)
