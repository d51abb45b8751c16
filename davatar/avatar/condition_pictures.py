"""What an avatar is told about a frame, as pictures for people: one row of maps, and pictures beside the truth."""

from __future__ import annotations

import numpy as np

from davatar.avatar.conditioning import HeadMaps
from davatar.dataset.quantisers import normalise_canonical

DEPTH_SHOWN = 0.3  # m from black to white, about the frame's mean
ERROR_GAIN = 4


def condition_row(maps: HeadMaps) -> np.ndarray:
    """[H, 4 W, 3] uint8: canonical position, normal, depth, coverage; grey where there is no head."""
    inside = maps.mask[..., None]
    parts = [
        np.where(inside, normalise_canonical(maps.canonical.astype(np.float32)), 0.5),
        np.where(inside, maps.normal.astype(np.float32) / 254 + 0.5, 0.5),
        np.where(inside, 0.5 - maps.depth.astype(np.float32)[..., None] / DEPTH_SHOWN, 0.5),
        maps.coverage[..., None] / 255,
    ]
    size = *maps.size, 3
    return as_bytes(np.concatenate([np.broadcast_to(part, size) for part in parts], 1))


def beside_truth(picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[H, 3 W, 3] uint8: truth, avatar, their absolute difference times 4 on white."""
    apart = np.abs(picture.astype(np.int16) - truth)
    error = np.clip(255 - ERROR_GAIN * apart, 0, 255).astype(np.uint8)
    return np.concatenate([truth, picture, error], 1)


def as_bytes(values: np.ndarray) -> np.ndarray:
    """0..1 -> uint8."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
