"""A small head of known shape, filmed by two cameras: an ellipsoid with a painted front."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from davatar.capture.frame import Frame
from davatar.core.errors import DataError
from davatar.core.files import write_json
from davatar.dataset.rasterize import Recording
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh, write_ply
from davatar.headmodel.morphable import to_head_units
from davatar.headmodel.track import save_track
from davatar.raster.embree import EmbreeRasterizer

SERIALS = ("00", "01")


def egg(rings: int = 24) -> Mesh:
    """Morphable frame, m: as high as a head with half a neck; canonical in head-model units."""
    theta, phi = np.meshgrid(np.linspace(0.02, np.pi - 0.02, rings), np.arange(24) * np.pi / 12, indexing="ij")
    unit = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1)
    vertices = (unit * [0.08, 0.15, 0.1]).reshape(-1, 3)
    index = np.arange(theta.size).reshape(theta.shape)
    right = np.roll(index, -1, axis=1)
    quads = np.stack([index[:-1], index[1:], right[1:], right[:-1]], -1).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)
    return Mesh(vertices, triangles, to_head_units(vertices).astype(np.float32))


@dataclass
class EggCapture:
    """The egg, coloured by its normals, before a wall 0.4 m behind it."""

    name: str
    poses: np.ndarray  # [T, 4, 4] morphable frame to world
    matte: bool = False
    fps: float = 10.0
    provenance: dict = field(default_factory=dict)
    views: tuple[str, ...] = SERIALS
    unreadable: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.poses)

    def mesh(self, row: int) -> Mesh:
        return egg().transformed(self.poses[row, :3, :3], self.poses[row, :3, 3])

    def camera(self, view: str | None) -> Camera:
        pose = np.diag([1.0, -1.0, -1.0, 1.0])
        pose[:3, 3] = (0.0, 0.0, 0.8) if view in (None, "00") else (0.05, 0.02, 0.9)
        return Camera.pinhole(150, 150, 47.5, 39.5, 96, 80, pose)

    def frame(self, index: int, view: str | None = None) -> Frame:
        if index in self.unreadable:
            raise DataError("is truncated", file=f"color/{index:05d}.png")
        camera = self.camera(view)
        maps = EmbreeRasterizer().rasterize(self.mesh(index), camera)
        color = np.where(maps.mask[..., None], (maps.normal * 0.5 + 0.5) * 255, [20, 60, 30]).astype(np.uint8)
        depth = np.where(maps.mask, maps.depth, 1.3).astype(np.float32)
        matte = maps.mask.astype(np.float32) if self.matte else None
        return Frame(
            index, index / self.fps, camera, None if self.matte else depth, color, mask=matte, name=f"{index:05d}"
        )


@pytest.fixture(scope="session")
def make_recording(make_track):
    def make(sequence: str = "talk", frames: int = 3, participant: int = 1, **options) -> Recording:
        poses = np.tile(np.eye(4), (frames, 1, 1))
        for k in range(frames):
            angle = 0.2 * k
            poses[k, :3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
            poses[k, 0, 3] = 0.004 * k
        capture = EggCapture(sequence, poses, **options)
        rng = np.random.default_rng(frames)
        codes = {"identity": np.zeros(4), "expression": rng.normal(size=(frames, 5))}
        weights = rng.uniform(size=(frames, 53))
        track = make_track(poses[:, :3, :3], poses[:, :3, 3], morphable_expression=weights, **codes)
        return Recording(participant, sequence, capture, track, capture.mesh, content="egg")

    return make


def write_folder(recording: Recording, folder: Path) -> Path:
    """The first camera of a recording as a plain RGB-D folder."""
    import cv2

    capture = recording.capture
    for k in range(len(capture)):
        frame = capture.frame(k)
        for kind, picture in (("depth", np.round(frame.depth * 1000).astype(np.uint16)), ("color", frame.color)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / kind / f"{k:05d}.png"), picture if picture.ndim == 2 else picture[..., ::-1])
    camera = capture.camera(None)
    K = camera.K
    intrinsics = {"width": camera.width, "height": camera.height, "fx": K[0, 0], "fy": K[1, 1]}
    write_json(folder / "intrinsics.json", intrinsics | {"cx": K[0, 2], "cy": K[1, 2]})
    write_json(folder / "meta.json", {"name": capture.name, "depth_scale": 1000, "fps": 10})
    return folder


@pytest.fixture
def recording_on_disk(tmp_path, make_recording):
    """(recording's folder, track's folder): the track lies in the recording, with meshes, in its camera's axes."""
    source = make_recording(frames=3)
    folder = write_folder(source, tmp_path / "talk")
    pose = source.capture.camera(None).world_to_camera
    track = replace(
        source.track,
        rotation=pose[:3, :3] @ source.track.rotation,
        translation=source.track.translation @ pose[:3, :3].T + pose[:3, 3],
        morphable_rotation=pose[:3, :3] @ source.track.morphable_rotation,
        morphable_translation=source.track.morphable_translation @ pose[:3, :3].T + pose[:3, 3],
    )
    out = folder / "track"
    save_track(out / "track.npz", track)
    write_json(out / "track.json", {"capture": str(folder)})
    for row in range(len(track)):
        write_ply(out / "meshes" / f"{row:05d}.ply", source.meshes(row).transformed(pose[:3, :3], pose[:3, 3]))
    return folder, out
