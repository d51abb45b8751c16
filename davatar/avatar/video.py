"""Frames into an H.264 file, one at a time.

yuv420p and an index in front of the pictures: what browsers play, before the file has arrived whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np

from davatar.core.files import atomic_path

SHOWN_SIDE = 512  # px: small pictures are enlarged to this


class VideoWriter(Protocol):
    def add(self, image: np.ndarray) -> None:
        """[H, W, 3] uint8 RGB, the same even size every time."""


class _Writer:
    def __init__(self, container: av.container.OutputContainer, fps: float):
        self.container, self.fps, self.stream = container, fps, None

    def add(self, image: np.ndarray) -> None:
        if self.stream is None:
            self.stream = self.container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1000))
            self.stream.height, self.stream.width = image.shape[:2]
            self.stream.pix_fmt = "yuv420p"
            self.stream.options = {"crf": "16", "preset": "fast"}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self.container.mux(self.stream.encode(frame))

    def finish(self) -> None:
        if self.stream is not None:
            self.container.mux(self.stream.encode())


@contextmanager
def video_writer(path: Path, fps: float) -> Iterator[VideoWriter]:
    """An MP4 that appears at `path` when the block ends without error."""
    with atomic_path(path) as temporary:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            writer = _Writer(container, fps)
            yield writer
            writer.finish()


def enlarged(picture: np.ndarray) -> np.ndarray:
    """By a whole factor so that a small avatar fills a player's window; even sides, as yuv420p needs."""
    factor = max(1, round(SHOWN_SIDE / picture.shape[0]))
    if factor > 1:
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
