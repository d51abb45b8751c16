"""A capture as the tracker reads it: chosen frames, bad ones skipped with a warning, samples cut and cached.

Memory stays constant: whole images are read again when they are needed, drawn samples are kept for a few
hundred frames.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from davatar.capture.frame import Capture, Frame
from davatar.core.errors import DataError
from davatar.core.progress import Progress, silent
from davatar.geometry.camera import Camera
from davatar.tracking.frame_fit import Sample
from davatar.tracking.observation import Observation, observe

KEPT = 400  # samples of 2500 points: 60 MB


class Recording:
    """
    Args:
        frames: indices into the capture; a row of the track each.
        points: how many depth points a sample holds.
    """

    def __init__(
        self,
        capture: Capture,
        frames: Sequence[int],
        *,
        points: int,
        seed: int,
        progress: Progress = silent,
    ):
        self.capture = capture
        self.frames = np.asarray(list(frames), int)
        self.points = points
        self.seed = seed
        self.smooth: bool | None = None  # decided once for the sequence
        self.unreadable: dict[int, str] = {}  # row -> reason
        self._times: dict[int, float] = {}
        self._cameras: dict[int, Camera] = {}
        self._progress = progress
        self._samples: OrderedDict[tuple, Sample] = OrderedDict()

    def __len__(self) -> int:
        return len(self.frames)

    def frame(self, row: int) -> Frame | None:
        """The frame of a row with finite depth, or None (warned about once)."""
        if row in self.unreadable:
            return None
        try:
            frame = self.capture.frame(int(self.frames[row]))
            if frame.depth is None:
                raise DataError("has no depth image", file=frame.name or None)
            if not np.isfinite(frame.depth).any():
                raise DataError("its depth image holds no measurement", file=frame.name or None)
            self._times[row], self._cameras[row] = frame.time, frame.camera
            return frame
        except DataError as error:
            self.unreadable[row] = str(error)
            self._progress.warn(f"frame {self.frames[row]} is skipped: {error}")
            return None

    def time(self, row: int) -> float:
        """s; of a frame that cannot be read, what the frame rate says."""
        if row not in self._times and self.frame(row) is None:
            return float(self.frames[row]) / self.capture.fps
        return self._times[row]

    def camera(self, row: int) -> Camera:
        """The row's camera; that of the nearest readable frame where it cannot be read."""
        for other in sorted(range(len(self)), key=lambda k: abs(k - row)):
            if other in self._cameras or self.frame(other) is not None:
                return self._cameras[other]
        raise DataError("no frame can be read", file=self.capture.name)

    def observe(self, row: int, center: np.ndarray) -> Observation | None:
        """The head region about `center` [3] m, camera axes."""
        frame = self.frame(row)
        return None if frame is None else observe(frame, center, self.smooth)

    def sample(self, row: int, center: np.ndarray) -> Sample | None:
        """The drawn points of a row's head region; the same for the same centre, cached or not."""
        key = (row, center.tobytes())
        if key not in self._samples:
            observation = self.observe(row, center)
            if observation is None:
                return None
            points, normals = observation.sample(self.points, self.seed)
            self._samples[key] = Sample(observation.index, points.astype(np.float32), normals.astype(np.float32))
            if len(self._samples) > KEPT:
                self._samples.popitem(last=False)
        self._samples.move_to_end(key)
        return self._samples[key]
