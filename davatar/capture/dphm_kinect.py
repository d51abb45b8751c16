"""The layout of the published DPHM-Kinect recordings (spec dphm 5.1).

Colour camera with registered 16-bit depth in mm; world frame: the colour camera's axes, metres. Distortion
coefficients are stored there but were never applied; neither are they here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from davatar.capture.calibration import number, read_object
from davatar.capture.frame import Frame
from davatar.capture.images import COLOR_SUFFIXES, list_images, read_color, read_depth
from davatar.capture.landmarks import read_wflw
from davatar.core.errors import DataError
from davatar.geometry.camera import Camera

VIEW = "c00"
SIZE = (1920, 1080)  # of the published colour images; calibration files do not say
_FPS = 30.0
_INTRINSICS = "camera/c00_color_intrinsic.txt"


@dataclass(frozen=True)
class DPHMKinect:
    """A `Capture`."""

    path: Path
    name: str
    camera: Camera
    depth: dict[str, Path]  # by frame stem, sorted: the running index of the published outputs
    color: dict[str, Path]
    landmarks: dict[str, Path]
    provenance: dict[str, Any]
    fps: float = _FPS

    @property
    def views(self) -> tuple[str, ...]:
        return (VIEW,)

    @cached_property
    def stems(self) -> tuple[str, ...]:
        return tuple(self.depth)

    def __len__(self) -> int:
        return len(self.depth)

    def frame(self, index: int, view: str | None = None) -> Frame:
        """
        Raises:
            DataError: there is no such frame or view, or a file is missing, truncated or of the wrong kind.
        """
        if not 0 <= index < len(self):
            raise DataError(f"has frames 0..{len(self) - 1}, there is no frame {index}", file=self.path)
        if view not in (None, VIEW):
            raise DataError(f"has no view {view!r}; there is {VIEW}", file=self.path)
        stem, size = self.stems[index], (self.camera.width, self.camera.height)
        color = read_color(self.color[stem], size) if stem in self.color else None
        landmarks = read_wflw(self.landmarks[stem]) if stem in self.landmarks else None
        depth = read_depth(self.depth[stem], 1000.0, size)
        return Frame(index, index / self.fps, self.camera, depth, color, landmarks, None, stem)


def open_capture(path: str | Path) -> DPHMKinect | None:
    """A DPHM-Kinect sequence folder, or None when the folder has another layout.

    Raises:
        DataError: it is one, but incomplete or contradictory; names the file and the mend.
    """
    path = Path(path)
    if not (path / "depth").is_dir() or (path / "intrinsics.json").exists() or (path / "meta.json").exists():
        return None
    if not (path / "camera").is_dir() and not (path / "calibration.json").exists():
        return None
    depth = list_images(path / "depth", (".png",))
    if not depth:
        raise DataError("holds no depth images", file=path / "depth", mend="copy the recording again")
    color = _by_frame(list_images(path / "color", COLOR_SUFFIXES))
    if color and not color.keys() & depth.keys():
        raise DataError("no colour image is named like a depth image", file=path / "color", mend="use the same numbers")
    missing = sorted(depth.keys() - color.keys())
    warnings = [f"color/ lacks {len(missing)} of {len(depth)} frames, {missing[0]} first"] if missing else []
    warnings.append(f"the layout stores no frame rate: {_FPS:g} assumed")
    landmarks = _by_frame(list_images(path / "color" / "PIPnet_landmarks", (".npy",)))
    provenance = {"layout": "dphm-kinect", "path": str(path), "warnings": warnings}
    return DPHMKinect(path, path.resolve().name, _camera(path), depth, color, landmarks, provenance)


def _by_frame(files: dict[str, Path]) -> dict[str, Path]:
    """Names may carry a prefix of four characters, as in `rgb_00012.png`."""
    return {stem[4:] if len(stem) > 5 and "_" in stem[:4] else stem: file for stem, file in files.items()}


def _camera(path: Path) -> Camera:
    """calibration.json if it is there, else the text file it was made from: cx, cy, fx, fy, ten more numbers."""
    file, mend = path / "calibration.json", "copy the recording's calibration again"
    if file.exists():
        values = read_object(file, mend).get("color")
        if not isinstance(values, dict):
            raise DataError("lacks 'color'", file=file, mend=mend)
        cx, cy, fx, fy = (number(values, key, file, mend) for key in ("cx", "cy", "fx", "fy"))
    else:
        file = path / _INTRINSICS
        try:
            numbers = [float(word) for word in file.read_text().split()]
        except FileNotFoundError as error:
            raise DataError("is missing", file=file, mend=mend) from error
        except (ValueError, OSError) as error:
            raise DataError(f"does not hold numbers: {error}", file=file, mend=mend) from error
        if len(numbers) < 4 or not all(map(math.isfinite, numbers)):
            raise DataError(f"holds {len(numbers)} numbers, expected at least cx, cy, fx, fy", file=file, mend=mend)
        cx, cy, fx, fy = numbers[:4]
    try:
        return Camera.pinhole(fx, fy, cx, cy, *SIZE)
    except DataError as error:
        raise DataError(error.message, file=file, mend=mend) from error
