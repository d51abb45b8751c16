"""The pictures of a render on disk, chunk by chunk, so that a killed render goes on where it was.

    <video without .mp4>/journal.jsonl, frames/frame_00000.png, ...     one sub-folder per kind of picture

A chunk is what one call of the network paints; a frame's picture may differ by rounding between chunks of other
sizes, so a resumed render repeats whole chunks and ends bit for bit where an uninterrupted one does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from davatar.core.errors import DataError
from davatar.core.files import read_lines, write_bytes
from davatar.core.journal import Journal
from davatar.core.lock import FILE as LOCK

JOURNAL = "journal.jsonl"


class FrameFolder:
    """
    Args:
        folder: held exclusively by the caller (`core.lock`).
        kinds: names of the pictures that each frame has.
        content: hash of everything the pictures depend on; those of another one are deleted.
        length, chunk: frames in all, and per item.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], content: str, length: int, chunk: int):
        self.folder, self.kinds, self.length, self.chunk = Path(folder), tuple(kinds), length, chunk
        self._journal = Journal(self.folder / JOURNAL, content)
        if not len(self._journal):
            if read_lines(self.folder / JOURNAL):
                self._clear()
            self._journal = Journal(self.folder / JOURNAL, content)

    def path(self, kind: str, frame: int) -> Path:
        return self.folder / kind / f"frame_{frame:05d}.png"

    def chunks(self) -> list[range]:
        return [range(first, min(first + self.chunk, self.length)) for first in range(0, self.length, self.chunk)]

    def missing(self) -> list[range]:
        """Chunks that are not whole on disk, in order."""
        return [frames for frames in self.chunks() if not self._whole(frames)]

    def _whole(self, frames: range) -> bool:
        return self._journal.done(self._key(frames)) and all(
            self.path(kind, frame).is_file() for kind in self.kinds for frame in frames
        )

    def put(self, frames: range, pictures: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Write the pictures [H, W, 3] uint8 of every kind of a chunk, then note it as done."""
        for kind in self.kinds:
            for frame, picture in zip(frames, pictures[kind], strict=True):
                write_bytes(self.path(kind, frame), cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
        self._journal.mark(self._key(frames))

    def read(self, kind: str) -> Iterator[np.ndarray]:
        """Pictures [H, W, 3] uint8 in order.

        Raises:
            DataError: a file is damaged.
        """
        for frame in range(self.length):
            picture = cv2.imread(str(self.path(kind, frame)))
            if picture is None:
                raise DataError("is not readable", file=self.path(kind, frame), mend="delete it and render again")
            yield picture[..., ::-1]

    def keep_only(self, kinds: Sequence[str]) -> None:
        """The videos are written: delete all other pictures, and the folder if nothing is left."""
        for kind in set(self.kinds) - set(kinds):
            shutil.rmtree(self.folder / kind, ignore_errors=True)
        if not kinds:
            self._clear()
            (self.folder / LOCK).unlink(missing_ok=True)  # still held: nobody can take it in between
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _key(self, frames: range) -> str:
        return f"{frames.start}-{frames.stop}"

    def _clear(self) -> None:
        for kind in self.folder.iterdir():
            if kind.is_dir() and any(kind.glob("frame_*.png")):
                shutil.rmtree(kind)
        (self.folder / JOURNAL).unlink(missing_ok=True)
