"""A small recording of a head whose geometry is known, made with the rasteriser; and settings that fit it fast."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from davatar.capture.frame import Frame
from davatar.core.errors import DataError
from davatar.geometry.camera import Camera
from davatar.headmodel.morphable import open_morphable
from davatar.raster.embree import EmbreeRasterizer
from davatar.tracking import so3
from davatar.tracking.settings import LinearSettings, OutputSettings, TrackSettings

CAMERA = Camera.pinhole(250.0, 250.0, 119.5, 109.5, 240, 220)


@dataclass
class MemoryCapture:
    """A `Capture` held in memory; frames in `broken` raise as a truncated file does."""

    depth: list[np.ndarray]
    name: str = "memory"
    fps: float = 10.0
    views: tuple[str, ...] = ("0",)
    provenance: dict = field(default_factory=dict)
    broken: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.depth)

    def frame(self, index: int, view: str | None = None) -> Frame:
        if index in self.broken:
            raise DataError("is truncated", file=f"depth/{index:05d}.png")
        return Frame(index, index / self.fps, CAMERA, self.depth[index], name=f"{index:05d}")


@dataclass(frozen=True)
class Known:
    """What the recording was made from."""

    capture: MemoryCapture
    identity: np.ndarray  # [100]
    weights: np.ndarray  # [T, 53]
    rotation: np.ndarray  # [T, 3, 3] morphable to camera
    translation: np.ndarray  # [T, 3] m

    def vertices(self, frame: int) -> np.ndarray:
        local = open_morphable().vertices(self.identity, self.weights[frame])
        return local @ self.rotation[frame].T + self.translation[frame]


@pytest.fixture(scope="session")
def known() -> Known:
    model, random = open_morphable(), np.random.default_rng(3)
    identity = random.normal(0, 0.8, 100)
    opening = [0.0, 0.15, 0.35, 0.5]
    weights = np.array([model.weights(jawOpen=jaw, mouthSmile=0.3 * jaw) for jaw in opening])
    rotation = np.array([so3.facing_camera(np.deg2rad(yaw), 0.05) for yaw in (-6, -2, 3, 8)])
    translation = np.array([[0.004 * k, 0.01, 0.55] for k in range(4)])
    rasterizer, depth = EmbreeRasterizer(), []
    for w, R, t in zip(weights, rotation, translation, strict=True):
        maps = rasterizer.rasterize(model.mesh(identity, w).transformed(R, t), CAMERA)
        depth.append(np.where(maps.mask, maps.depth, np.nan).astype(np.float32))
    return Known(MemoryCapture(depth), identity, weights, rotation, translation)


@pytest.fixture(scope="session")
def quick() -> TrackSettings:
    """Linear stage only, few points and rounds."""
    linear = LinearSettings(
        points=900, effective_points=900, first_steps=10, track_steps=4, key_rounds=2, joint_rounds=2
    )
    return TrackSettings(stage="linear", linear=replace(linear, scan=2), output=OutputSettings(overlay_height=120))
