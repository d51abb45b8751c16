"""All frames of a clip as one tensor without holding them in memory: for metrics of videos.

Frames wait on disk as bytes; a tensor is a file mapped into memory, so the operating system pages it in and out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

Arrays = tuple[np.ndarray, ...]


class WholeClip:
    """Some uint8 arrays per frame, of the same `shapes` in every frame; appended, then read back in order."""

    def __init__(self, folder: Path):
        self._folder, self.shapes, self.frames = folder, (), 0

    def append(self, *arrays: np.ndarray) -> None:
        self.shapes = tuple(array.shape for array in arrays)
        for k, array in enumerate(arrays):
            with open(self._folder / f"{k}.bytes", "ab") as file:
                file.write(np.ascontiguousarray(array, np.uint8).tobytes())
        self.frames += 1

    def __iter__(self) -> Iterator[Arrays]:
        files = [open(self._folder / f"{k}.bytes", "rb") for k in range(len(self.shapes))]
        try:
            for _ in range(self.frames):
                yield tuple(
                    np.frombuffer(file.read(int(np.prod(shape))), np.uint8).reshape(shape).copy()
                    for file, shape in zip(files, self.shapes, strict=True)
                )
        finally:
            for file in files:
                file.close()

    @contextmanager
    def mapped(self, make: Callable[..., tuple[torch.Tensor | None, ...]]) -> Iterator[tuple[torch.Tensor | None, ...]]:
        """`make(*arrays)` of every frame (tensors [1, ...], or None), joined along the first axis."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            shapes: list[torch.Size | None] = []
            for arrays in self:
                made = make(*arrays)
                shapes = [None if part is None else part.shape[1:] for part in made]
                for k, part in enumerate(made):
                    if part is not None:
                        with open(Path(folder) / f"{k}.float", "ab") as file:
                            file.write(part.contiguous().numpy().tobytes())
            yield tuple(
                None
                if shape is None
                else torch.from_file(
                    f"{folder}/{k}.float", shared=True, size=self.frames * shape.numel(), dtype=torch.float32
                ).reshape(self.frames, *shape)
                for k, shape in enumerate(shapes)
            )


@contextmanager
def whole_clip() -> Iterator[WholeClip]:
    with tempfile.TemporaryDirectory(prefix="davatar-clip-") as folder:
        yield WholeClip(Path(folder))
