"""my-capture: a recording kept as one `recording.npz`.

It holds `depth` [T, H, W] float m (NaN or 0 = none), `K` [3, 3] px, `fps`, and perhaps `color`
[T, H, W, 3] uint8. World = the camera's axes. The contract is `davatar.capture.frame.Capture`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from davatar.capture.frame import Capture, Frame
from davatar.core.errors import DataError
from davatar.geometry.camera import Camera

FILE = "recording.npz"


def open_capture(path: Path) -> Capture | None:
    """A recording of this layout, or None when the folder is of another one.

    Raises:
        DataError: it is of this layout and cannot be read.
    """
    file = Path(path) / FILE
    return MyCapture(file) if file.is_file() else None


class MyCapture:
    def __init__(self, file: Path):
        self._file = file
        try:
            with np.load(file) as arrays:
                self._depth = arrays["depth"].astype(np.float32)
                self._color = arrays["color"] if "color" in arrays else None
                self.fps = float(arrays["fps"])
                K = arrays["K"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"is not a readable recording: {error}", file=file, mend="record it again") from error
        self._depth[~np.isfinite(self._depth) | (self._depth <= 0)] = np.nan
        height, width = self._depth.shape[1:]
        self._camera = Camera(K, np.eye(4), width, height)
        self.name = file.parent.resolve().name
        self.provenance = {"layout": "my-capture", "file": str(file)}

    @property
    def views(self) -> tuple[str, ...]:
        return ("main",)

    def __len__(self) -> int:
        return len(self._depth)

    def frame(self, index: int, view: str | None = None) -> Frame:
        if not 0 <= index < len(self):
            raise DataError(f"has frames 0..{len(self) - 1}, not {index}", file=self._file)
        return Frame(
            index=index,
            time=index / self.fps,
            camera=self._camera,
            depth=self._depth[index],
            color=None if self._color is None else self._color[index],
            name=f"{index:05d}",
        )
