"""Frames into an H.264 file, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from davatar.core.files import atomic_path


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
    """An MP4 (yuv420p, plays everywhere) that appears at `path` when the block ends without error."""
    with atomic_path(path) as temporary:
        with av.open(str(temporary), "w", format="mp4") as container:
            writer = _Writer(container, fps)
            yield writer
            writer.finish()
