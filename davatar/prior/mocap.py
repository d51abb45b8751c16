"""Captured facial motion as expression weights: what the expression prior and its statistics learn from.

The file holds frames of one performer (30 per second) as weights 0..1 of the 53 open expression
shapes. Frames that were replayed in the test recordings, and a second on either side of them, are
never used: neither statistics nor priors may know the answers. Of the rest every tenth stretch of
two seconds is kept aside to judge a prior.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError

MARGIN = 30  # frames left out before and after a recorded window
STRETCH = 60  # frames per stretch; neighbouring frames are nearly equal, so single frames make no honest split
HELD_OUT_EVERY = 10


@dataclass(frozen=True)
class Mocap:
    weights: np.ndarray  # [T, 53] float32, 0..1, every captured frame in order
    names: tuple[str, ...]  # 53 shape names, the order of the open morphable model
    fps: float
    recorded: np.ndarray  # [W, 2] int, [first, last + 1) frames that the test recordings replay

    def usable(self) -> np.ndarray:
        """[T] bool: frames at least a second away from every recorded window."""
        frames = np.arange(len(self.weights))
        near = [(frames >= first - MARGIN) & (frames < stop + MARGIN) for first, stop in self.recorded]
        return ~np.any(near, axis=0) if near else np.ones(len(frames), bool)

    def held_out(self) -> np.ndarray:
        """[T] bool: usable frames that training leaves for evaluation."""
        stretch = np.arange(len(self.weights)) // STRETCH
        return self.usable() & (stretch % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)

    def training(self) -> np.ndarray:
        """[N, 53] usable frames that are not held out."""
        return self.weights[self.usable() & ~self.held_out()]

    def evaluation(self) -> np.ndarray:
        """[M, 53] held-out frames."""
        return self.weights[self.held_out()]


def load_mocap(path: str | Path | None = None) -> Mocap:
    """Read a motion file; without `path` the one that ships with davatar.

    Args:
        path: an .npz with `weights` [T, 53], `names` [53], `fps` and `recorded` [W, 2].

    Raises:
        DataError: the file is absent, truncated, lacks an array or holds weights that are not finite.
    """
    if path is None:
        with as_file(files("davatar.assets") / "prior" / "mocap_expressions.npz") as shipped:
            return load_mocap(shipped)
    try:
        with open(path, "rb") as file, np.load(file) as archive:
            motion = Mocap(
                weights=archive["weights"].astype(np.float32),
                names=tuple(str(name) for name in archive["names"]),
                fps=float(archive["fps"]),
                recorded=archive["recorded"].reshape(-1, 2),
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        mend = "it needs the arrays weights [T, 53], names [53], fps and recorded [W, 2]"
        raise DataError(f"is not a readable motion file: {error}", file=path, mend=mend) from error
    if motion.weights.ndim != 2 or motion.weights.shape[1] != len(motion.names):
        found = f"weights {list(motion.weights.shape)} beside {len(motion.names)} names"
        raise DataError(f"holds {found}", file=path, mend="give one column of weights per name")
    if not np.isfinite(motion.weights).all():
        raise DataError("holds weights that are not finite", file=path, mend="drop those frames")
    return motion
