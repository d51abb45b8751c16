"""What a published archive's render shows: the stored meshes of its recording from the published camera paths.

Spec diffusion-avatars 7.3 and 8. Conditions are kept exactly as the published model saw them, in float32 and -1..1,
with pixels of the background at the published values. Metres, world of the recording's calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch

from davatar.avatar.condition_pictures import as_bytes
from davatar.avatar.published import ImageBatch
from davatar.avatar.scenes import FPS, Scene, Shot, chosen_camera, frame_range
from davatar.avatar.trajectories import alignment, inverse, move_x
from davatar.core.content import hash_path, hash_value
from davatar.core.errors import DataError, UsageError
from davatar.dataset.conditions import NAMES, condition
from davatar.dataset.crop import choose_crop, crop_and_resize
from davatar.dataset.layout import FRONTAL_SERIAL, SampleKey
from davatar.dataset.nersemble import RawParticipant
from davatar.dataset.published_meshes import PublishedMeshes, angle_normals
from davatar.dataset.quantisers import clip_depth, normalise_canonical
from davatar.dataset.rendering_data import RenderingData
from davatar.dataset.splits import TEST_SEQUENCES
from davatar.geometry.camera import Camera
from davatar.raster.embree import EmbreeRasterizer

FRONTAL = "camera"  # the published name of the still frontal view
WIDTHS = {"camera_moveX": 3208}  # raw pixels that the picture's side stands for; else:
WIDTH = 2200
MOST = 96  # frames of every path that does not follow the sequence


@dataclass(frozen=True)
class Told:
    """The expression codes of a recording, as long as an avatar takes them."""

    person: RawParticipant
    tracker: str
    size: int

    def code(self, sequence: str, timestep: int) -> np.ndarray:
        return self.person.expression(sequence, timestep, self.tracker)[: self.size]


@dataclass(frozen=True)
class ConditionFrame:
    rendered: np.ndarray  # [9, H, W] float32 depth 1, canonical 3, normal 3, ambient 2; -1..1
    mask: np.ndarray  # [H, W] bool
    expression: np.ndarray  # [200 or 206] float32
    image: np.ndarray | None = None  # [H, W, 3] uint8 on white, where there is a photograph
    key: str = ""

    def row(self) -> np.ndarray:
        """[H, 5 W, 3] uint8: canonical, normal, depth, ambient, mask, as the published videos show them."""
        size = 3, *self.mask.shape
        depth, canonical, normal, ambient = np.split(self.rendered, [1, 4, 7])
        third = np.full_like(depth, -1)
        mask = np.where(self.mask, 1.0, -1.0)[None]
        parts = [canonical, normal, depth, np.concatenate([ambient, third]), mask]
        row = np.concatenate([np.broadcast_to(part, size) for part in parts], 2)
        return as_bytes((row.transpose(1, 2, 0) + 1) / 2)


def image_batch(frames: Sequence[ConditionFrame]) -> ImageBatch:
    return ImageBatch(
        rendered=torch.from_numpy(np.stack([frame.rendered for frame in frames])),
        mask=torch.from_numpy(np.stack([frame.mask for frame in frames])),
        expression=torch.from_numpy(np.stack([frame.expression for frame in frames])),
        participant=torch.zeros(len(frames), dtype=torch.int64),
        image=None,
    )


def archive_scene(
    data: RenderingData, raw: Path, resolution: int, codes: int, shot: Shot, compat: bool = False
) -> Scene:
    """
    Args:
        data: the published renderings that the archive was trained on.
        raw: the folder `nersemble` with the raw recording.
        codes: how many expression numbers the avatar is told: 206, or 200 without the eyes.
        compat: depths as the published script gives them: times the fit's scale.

    Raises:
        UsageError: no such sequence, camera or frames.
        DataError: a file of the recording is missing or damaged.
    """
    participant, sequence = _chosen_sequence(data, shot.sequence)
    person = RawParticipant(Path(raw) / f"{participant:03d}")
    steps = data.stats.available_sequences[str(participant)][sequence]
    camera, path = (
        (FRONTAL, None)
        if shot.camera == FRONTAL
        else chosen_camera(shot.camera or "camera_shake", data.config.serials, data.path)
    )
    fps = shot.fps or FPS
    told = Told(person, data.config.mesh_provider_config.nphm_tracking, codes)
    hashed = [hash_path(data.path, "*.json"), resolution, compat, camera, shot.still, vars(shot.move)]
    if camera in data.config.serials:
        chosen = steps[slice(*frame_range(len(steps), shot))]
        keys = [SampleKey(participant, sequence, step, camera) for step in chosen]
        read = stored_frames(data, person, keys, resolution, told)
        return Scene(sequence, camera, fps, len(keys), read, hash_value([hashed, keys]), True)
    meshes = PublishedMeshes(person, sequence, data.config.mesh_provider_config)
    count = path.frames(fps) if path else len(steps) if camera == "camera_shake" else MOST
    rows = np.linspace(0, len(steps) - 1, count).astype(int)
    if shot.still:
        rows[:] = 0
    world = meshes.flame_to_world(steps[0])
    if path:
        cameras = path.cameras(count, fps, published_lens(person, resolution, camera), np.zeros(3), unscaled(world))
    else:
        cameras = published_cameras(person, resolution, camera, shot, count, world)
    first, end = frame_range(count, shot)
    chosen = [steps[row] for row in rows[first:end]]
    read = mesh_frames(meshes, chosen, cameras[first:end], told, compat)
    poses = [view.world_to_camera.tolist() + view.K.tolist() for view in cameras[first:end]]
    name = camera + "_still" * shot.still
    return Scene(sequence, name, fps, end - first, read, hash_value([hashed, chosen, poses]))


def _chosen_sequence(data: RenderingData, name: str | None) -> tuple[int, str]:
    """Participant and sequence; by default the first held-out one."""
    for participant, sequences in data.stats.available_sequences.items():
        if name in sequences:
            return int(participant), name
        held = [seq for seq in TEST_SEQUENCES.get(int(participant), ()) if seq in sequences]
        if name is None and sequences:
            return int(participant), (held or list(sequences))[0]
    known = sorted({seq for sequences in data.stats.available_sequences.values() for seq in sequences})
    raise UsageError(f"no sequence {name!r}", file=data.path, mend=f"there are {', '.join(known)}")


def unscaled(pose: np.ndarray) -> np.ndarray:
    """[..., 4, 4] the rigid part of scaled poses."""
    out = pose.copy()
    out[..., :3, :3] /= np.linalg.norm(out[..., :3, :3], axis=-2, keepdims=True)
    return out


def published_lens(person: RawParticipant, resolution: int, camera: str) -> Camera:
    """Calibration camera 0, its focal length for a square picture, the principal point in its middle."""
    first = person.camera(person.serials[0], downscale=1)
    share, middle = resolution / WIDTHS.get(camera, WIDTH), (resolution - 1) / 2
    focal = first.K[[0, 1], [0, 1]] * share
    return Camera.pinhole(*focal, middle, middle, resolution, resolution, first.world_to_camera)


def published_cameras(
    person: RawParticipant, resolution: int, name: str, shot: Shot, count: int, world: np.ndarray
) -> list[Camera]:
    """[count] cameras of a path.

    Args:
        world: [4, 4] FLAME units to world metres, of the first time step.
    """
    lens = published_lens(person, resolution, name)
    if name == FRONTAL:
        serial = FRONTAL_SERIAL if FRONTAL_SERIAL in person.serials else person.serials[0]
        pose = person.camera(serial, downscale=1).camera_to_world
        pose[:3, 3] -= shot.move.move_y * pose[:3, 1]
        poses = np.tile(pose, (count, 1, 1))
    elif name == "camera_moveX":
        rig = np.stack([person.camera(serial, downscale=1).camera_to_world for serial in person.serials])
        if len(rig) < 3:
            raise DataError(f"has {len(rig)} cameras, camera_moveX needs the axes of three", file=person.folder)
        poses = inverse(alignment(rig)) @ move_x(count, distance=shot.move.distance)
    else:
        poses = unscaled(world @ shot.move.poses(name, count))
    return [lens.moved(inverse(pose)) for pose in poses]


def mesh_frames(
    meshes: PublishedMeshes, steps: Sequence[int], cameras: Sequence[Camera], told: Told, compat: bool
) -> Callable[[int], ConditionFrame]:
    """frame -> what the network is told of the mesh at `steps[frame]`, seen by `cameras[frame]`."""
    rasterizer = EmbreeRasterizer()

    def read(index: int) -> ConditionFrame:
        step, camera = steps[index], cameras[index]
        mesh = meshes.mesh(step)
        maps = rasterizer.rasterize(mesh, camera)
        inside = maps.mask[..., None]
        corners = mesh.triangles[maps.triangle]
        normal = (angle_normals(mesh.vertices, mesh.triangles)[corners] * maps.barycentric[..., None]).sum(-2)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
        scale = np.linalg.norm(meshes.flame_to_world(steps[0])[:3, 0]) if compat else 1.0
        share = np.where(inside, normalise_canonical(maps.canonical), 0)
        channels = {
            "depths": np.where(maps.mask, clip_depth(scale * maps.depth), 0),
            "uv": share[..., :3],
            "normals": np.where(inside, normal, 0),
            "uv_ambient": share[..., 3:],
        }
        rendered = [condition(channels[name].astype(np.float32), name, None, camera.width) for name in NAMES]
        code = told.code(meshes.sequence, step)
        return ConditionFrame(np.concatenate(rendered), maps.mask, code, key=f"{meshes.sequence}/{step}")

    return read


def stored_frames(
    data: RenderingData, person: RawParticipant, keys: Sequence[SampleKey], resolution: int, told: Told
) -> Callable[[int], ConditionFrame]:
    """frame -> the stored renderings of a sample in the square of evaluation, with its photograph (torso and all)."""
    first, factor = keys[0], data.config.downscale_factor
    full = person.camera(first.serial, downscale=1)
    step = data.stats.available_sequences[str(first.participant)][first.sequence][0]
    box = person.box(first.sequence, step, first.serial)  # one square for the whole sequence
    crop = choose_crop(full.width / factor, full.height / factor, box, Random(0), smallest=1, aspect=1)

    def read(index: int) -> ConditionFrame:
        key = keys[index]
        rendered = [condition(data.channel(key, name), name, crop, resolution) for name in NAMES]
        image, _ = person.image(key.sequence, key.timestep, key.serial)
        return ConditionFrame(
            np.concatenate(rendered).astype(np.float32),
            crop_and_resize(data.channel(key, "mask"), crop, resolution),
            told.code(key.sequence, key.timestep),
            as_bytes(crop_and_resize(image, crop, resolution)),
            "/".join(map(str, key)),
        )

    return read
