"""Tiled noise in space: what makes skin blotchy, hair streaky and stubble uneven.

One periodic volume of band-limited noise serves all scales; each use has its own frequency and offset.
Points are template centimetres (see `template`), values have mean 0 and standard deviation 1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SIDE = 128  # voxels along one side of the tile, a power of two
VOXELS_PER_CELL = 8  # so fine that the nearest voxel does: a step between voxels is a tenth of the noise


@lru_cache(maxsize=1)
def _tile() -> np.ndarray:
    """[128, 128, 128] float32, periodic; half a wave is about one cell."""
    white = np.random.default_rng(20).standard_normal((SIDE, SIDE, SIDE))
    f = np.fft.fftfreq(SIDE) * 2 * VOXELS_PER_CELL  # 1 = one cell is half a wave
    radius = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(f, f, f, indexing="ij")))
    band = np.exp(-0.5 * np.square((radius - 0.9) / 0.35))
    filtered = np.fft.ifftn(np.fft.fftn(white) * band).real
    return (filtered / filtered.std()).astype(np.float32)


def noise(points: np.ndarray, cells_per_cm: float, offset: np.ndarray) -> np.ndarray:
    """Noise at [..., 3] points; `offset` [3] in cells moves the tile, so that every subject is its own."""
    where = (points * np.float32(cells_per_cm) + offset.astype(np.float32)) * np.float32(VOXELS_PER_CELL)
    return _voxel(np.floor(where).astype(np.int32))


def smooth_noise(points: np.ndarray, cells_per_cm: float, offset: np.ndarray) -> np.ndarray:
    """The same, interpolated: for displacements and for bending other patterns, where steps would show."""
    where = (points * np.float32(cells_per_cm) + offset.astype(np.float32)) * np.float32(VOXELS_PER_CELL)
    low = np.floor(where)
    t = where - low
    low = low.astype(np.int32)
    total = np.zeros(points.shape[:-1], np.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, t, 1 - t), axis=-1)
        total += weight * _voxel(low + np.int32(corner))
    return total


def _voxel(index: np.ndarray) -> np.ndarray:
    i, j, k = np.moveaxis(index & (SIDE - 1), -1, 0)
    return _tile().ravel()[(i * SIDE + j) * SIDE + k]


def fractal(points: np.ndarray, cells_per_cm: tuple[float, ...], offset: np.ndarray, fall: float = 0.6) -> np.ndarray:
    """Sum of octaves, each `fall` times as strong as the one before; standard deviation about 1."""
    gains = fall ** np.arange(len(cells_per_cm))
    total = sum(g * noise(points, f, offset + 17.3 * k) for k, (g, f) in enumerate(zip(gains, cells_per_cm, strict=True)))
    return total / np.float32(np.sqrt(np.square(gains).sum()))


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between; `low > high` falls instead of rising."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: np.ndarray, width: float) -> np.ndarray:
    """Bell of height 1 at 0."""
    return np.exp(-np.square(x / width))
