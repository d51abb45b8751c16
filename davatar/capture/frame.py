"""`Frame` and `Capture`: what every reader returns (design 4). World frame: the recording's own, m."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from davatar.geometry.camera import Camera


@dataclass(frozen=True)
class Frame:
    index: int  # position in the capture, 0..len-1
    time: float  # s
    camera: Camera
    depth: np.ndarray | None = None  # [H, W] float32 m along the camera's z, NaN = none
    color: np.ndarray | None = None  # [H, W, 3] uint8 sRGB
    landmarks: np.ndarray | None = None  # [68, 2] px or [68, 3] m in camera axes; NaN rows = not found
    mask: np.ndarray | None = None  # [H, W] bool or float alpha 0..1: the person
    name: str = ""  # file stem, for messages


class Capture(Protocol):
    name: str
    fps: float
    provenance: dict  # where it comes from, what was guessed

    @property
    def views(self) -> tuple[str, ...]:
        """Serials of the cameras; the first is the one that carries depth."""

    def __len__(self) -> int: ...

    def frame(self, index: int, view: str | None = None) -> Frame:
        """One instant seen by one camera (default: the first view); reads only that frame.

        Raises:
            DataError: the frame's files are missing, truncated or of the wrong kind (names the file).
        """
