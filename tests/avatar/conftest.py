"""Small avatars and frames: a painted ball instead of a head, 32 pixels wide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from davatar.avatar.conditioning import HeadMaps, head_maps
from davatar.avatar.settings import AvatarSettings, Budget
from davatar.avatar.tiny_network import TinySettings
from davatar.core.files import write_json
from davatar.headmodel.morphable import open_morphable
from davatar.headmodel.track import Track, save_track

SMALL = TinySettings(
    resolution=32, plane_size=16, plane_channels=4, point_width=16, map_width=8, width=16, token_width=16
)


def ball(shift: float, seed: int = 0, size: int = 32) -> HeadMaps:
    """A ball of half the picture's width, coloured by where it is hit."""
    row, column = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    x, y = (column - shift) / 0.6, -row / 0.6
    depth = 1 - x**2 - y**2
    mask = depth > 0
    normal = np.stack([x, y, np.sqrt(np.maximum(depth, 0))], -1)
    image = np.where(mask[..., None], 0.5 + 0.4 * np.sin(7 * normal), 1.0)
    return head_maps(
        canonical=normal * 0.3,
        normal=normal @ np.diag([1, -1, -1]),
        depth=0.8 - 0.1 * normal[..., 2],
        mask=mask,
        coverage=mask.astype(np.float32),
        expression=np.random.default_rng(seed).uniform(size=53),
        world_to_camera=np.eye(3),
        world_to_reference=np.eye(3),
        image=image,
        key=f"ball/{seed}",
    )


@pytest.fixture(scope="session")
def make_ball():
    return ball


@pytest.fixture(scope="session")
def balls() -> list[HeadMaps]:
    return [ball(shift, seed) for seed, shift in enumerate(np.linspace(-0.3, 0.3, 6))]


@pytest.fixture(scope="session")
def small() -> AvatarSettings:
    return AvatarSettings(
        start="scratch",
        budget=Budget(steps=8),
        batch=2,
        seed=3,
        precision="float32",
        log_every=2,
        checkpoint_every=3,
        preview_every=4,
        preview_frames=2,
        tiny=SMALL,
    )


@pytest.fixture(scope="session")
def tracked(make_track) -> Callable[[int], Track]:
    """`tracked(seed)`: three frames of somebody who faces the camera, moves a little and opens the mouth."""

    def make(seed: int) -> Track:
        rng = np.random.default_rng(seed)
        angles = rng.normal(0, 0.1, 3)
        turn = np.stack([[[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]] for a in angles])
        rotation = np.diag([1.0, -1.0, -1.0]) @ turn  # head axes -> the camera's: the face looks at it
        place = np.array([0.0, 0.0, 0.6]) + rng.normal(0, 0.005, (3, 3))
        weights = np.stack([open_morphable().weights(jawOpen=w) for w in rng.uniform(0, 0.8, 3)])
        given = {"morphable_identity": rng.normal(0, 0.5, 100), "settings": {"geometry": "linear"}}
        return make_track(rotation, place, morphable_expression=weights, **given)

    return make


@pytest.fixture(scope="session")
def tracked_folder(tmp_path_factory, make_track) -> Path:
    """A recording of twelve grey frames, 64 x 64, with its track: only plumbing is tested with it."""
    folder, frames = tmp_path_factory.mktemp("recording") / "talk", 12
    for kind, value in (("depth", np.full((64, 64), 600, np.uint16)), ("color", np.full((64, 64, 3), 90, np.uint8))):
        (folder / kind).mkdir(parents=True)
        for k in range(frames):
            cv2.imwrite(str(folder / kind / f"{k:05d}.png"), value + np.array(k, value.dtype))
    write_json(folder / "intrinsics.json", {"width": 64, "height": 64, "fx": 110, "fy": 110, "cx": 31.5, "cy": 31.5})
    write_json(folder / "meta.json", {"name": "talk", "depth_scale": 1000, "fps": 10})
    rotation = np.tile(np.diag([1.0, -1.0, -1.0]), (frames, 1, 1))
    translation = np.array([0, 0, 0.6]) + 0.01 * np.linspace(-1, 1, frames)[:, None] * [1, 0, 0]
    weights = np.stack([open_morphable().weights(jawOpen=k / frames) for k in range(frames)])
    track = make_track(rotation, translation, morphable_expression=weights, settings={"geometry": "linear"})
    save_track(folder / "track" / "track.npz", track)
    write_json(folder / "track" / "track.json", {"capture": str(folder)})
    return folder
