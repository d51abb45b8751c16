"""The plain RGB-D folder (design 5): depth/, optional color/, alpha/, landmarks/, views/, intrinsics.json, meta.json.

World frame: the first camera's own axes, metres. Only file lists are kept; `frame` reads one instant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from davatar.capture.calibration import number, read_intrinsics, read_object, read_view_camera
from davatar.capture.frame import Frame
from davatar.capture.images import COLOR_SUFFIXES, list_images, read_alpha, read_color, read_depth
from davatar.capture.landmarks import read_landmarks
from davatar.core.errors import DataError
from davatar.geometry.camera import Camera

_FPS = 30.0  # when meta.json does not say


@dataclass(frozen=True)
class View:
    camera: Camera
    color: dict[str, Path]  # by frame stem
    alpha: dict[str, Path]


@dataclass(frozen=True)
class RGBDFolder:
    """A `Capture`."""

    path: Path
    name: str
    fps: float
    depth_scale: float  # units per metre
    depth: dict[str, Path]  # by frame stem, sorted
    landmarks: dict[str, Path]
    cameras: dict[str, View]  # by serial; the first carries depth
    times: tuple[float, ...]  # s, one per frame
    provenance: dict[str, Any]

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(self.cameras)

    @cached_property
    def stems(self) -> tuple[str, ...]:
        return tuple(self.depth)

    def __len__(self) -> int:
        return len(self.depth)

    def frame(self, index: int, view: str | None = None) -> Frame:
        """One instant seen by one camera; only the first camera has depth and landmarks.

        Raises:
            DataError: there is no such frame or view, or a file is missing, truncated or of the wrong kind.
        """
        if not 0 <= index < len(self):
            raise DataError(f"has frames 0..{len(self) - 1}, there is no frame {index}", file=self.path)
        first = self.views[0]
        serial = first if view is None else view
        if serial not in self.cameras:
            raise DataError(f"has no view {serial!r}; there are {', '.join(self.views)}", file=self.path)
        stem, source = self.stems[index], self.cameras[serial]
        size = source.camera.width, source.camera.height
        depth = landmarks = None
        if serial == first:
            depth = read_depth(self.depth[stem], self.depth_scale, size)
            landmarks = read_landmarks(self.landmarks[stem]) if stem in self.landmarks else None
        color = read_color(source.color[stem], size) if stem in source.color else None
        alpha = read_alpha(source.alpha[stem], size) if stem in source.alpha else None
        return Frame(index, self.times[index], source.camera, depth, color, landmarks, alpha, stem)


def open_capture(path: str | Path) -> RGBDFolder | None:
    """A plain RGB-D folder, or None when the folder has another layout.

    Raises:
        DataError: it is one, but incomplete or contradictory; names the file and the mend.
    """
    path = Path(path)
    described = any((path / name).exists() for name in ("intrinsics.json", "meta.json", "recipe.json"))
    foreign = (path / "camera").is_dir() or (path / "calibration.json").exists()
    if not path.is_dir() or not (described or ((path / "depth").is_dir() and not foreign)):
        return None
    if (path / "recipe.json").exists() and not (path / "meta.json").exists():
        raise DataError("the recording is not finished", file=path, mend="run the recorder on this folder again")
    warnings: list[str] = []
    camera = read_intrinsics(path / "intrinsics.json")
    meta = _meta(path)
    mend = "depth_scale is the number of depth units per metre: 1000 for millimetres"
    depth_scale = number(meta, "depth_scale", path / "meta.json", mend)
    if depth_scale <= 0:
        raise DataError(f"depth_scale is {depth_scale:g}, expected more than 0", file=path / "meta.json", mend=mend)
    depth = list_images(path / "depth", (".png",))
    if not depth:
        raise DataError("holds no depth images", file=path / "depth", mend="put 16-bit PNGs there, one per frame")
    if "num_frames" in meta and meta["num_frames"] != len(depth):
        warnings.append(f"meta.json says {meta['num_frames']} frames, depth/ holds {len(depth)}")
    serial = str(meta.get("serial", "00"))
    cameras = {serial: _view(path, camera, depth, warnings)}
    for folder in sorted(p for p in (path / "views").glob("*") if p.is_dir()):
        cameras[folder.name] = _view(folder, read_view_camera(folder / "camera.json"), depth, warnings)
    fps = _fps(meta, path, warnings)
    provenance = {
        "layout": "rgbd-folder",
        "path": str(path),
        "meta": {k: v for k, v in meta.items() if k != "frames"},
        "warnings": warnings,
    }
    lens = read_object(path / "intrinsics.json", "").get("lens_distortion")
    if lens is not None:
        provenance["lens_distortion"] = "given, not applied"
    landmarks = list_images(path / "landmarks", (".npy",))
    name = str(meta.get("name") or path.resolve().name)
    times = _times(meta, list(depth), fps, path)
    return RGBDFolder(path, name, fps, depth_scale, depth, landmarks, cameras, times, provenance)


def _meta(path: Path) -> dict[str, Any]:
    return read_object(path / "meta.json", mend='write {"depth_scale": units per metre, "fps": frames per second}')


def _view(folder: Path, camera: Camera, depth: dict[str, Path], warnings: list[str]) -> View:
    color, alpha = list_images(folder / "color", COLOR_SUFFIXES), list_images(folder / "alpha", (".png",))
    missing = sorted(depth.keys() - color.keys())
    if color and len(missing) == len(depth):
        raise DataError(
            f"no colour image is named like a depth image ({next(iter(color))} and {next(iter(depth))} come first)",
            file=folder / "color",
            mend="name both by frame number, as in depth/00000.png and color/00000.png",
        )
    if color and missing:
        warnings.append(f"{folder / 'color'} lacks {len(missing)} of {len(depth)} frames, {missing[0]} first")
    return View(camera, color, alpha)


def _fps(meta: dict[str, Any], path: Path, warnings: list[str]) -> float:
    if "fps" not in meta:
        warnings.append(f"meta.json has no fps: {_FPS:g} assumed")
        return _FPS
    fps = number(meta, "fps", path / "meta.json", "give frames per second")
    if fps <= 0:
        raise DataError(f"fps is {fps:g}, expected more than 0", file=path / "meta.json", mend="give frames per second")
    return fps


def _times(meta: dict[str, Any], stems: list[str], fps: float, path: Path) -> tuple[float, ...]:
    """Seconds per frame: meta.json's list where it has one entry per frame, else the frame rate."""
    entries = meta.get("frames")
    times = [entry.get("time_s") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if len(times) != len(stems) or not all(isinstance(t, int | float) for t in times):
        return tuple(k / fps for k in range(len(stems)))
    if not all(math.isfinite(t) for t in times) or any(b <= a for a, b in zip(times[:-1], times[1:], strict=True)):
        raise DataError("the frames' time_s do not increase", file=path / "meta.json", mend="remove or correct them")
    return tuple(float(t) for t in times)
