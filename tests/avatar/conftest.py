"""Small avatars and frames: a painted ball instead of a head, 32 pixels wide."""

from __future__ import annotations

import numpy as np
import pytest

from davatar.avatar.conditioning import HeadMaps, head_maps
from davatar.avatar.settings import AvatarSettings, Budget
from davatar.avatar.tiny_network import TinySettings

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
