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
    """Noise at [N, 3] points; `offset` [3] in cells moves the tile, so that every subject is its own."""
    return _voxel(*(axis.astype(np.int32) for axis in _voxels(points, cells_per_cm, offset)))


def smooth_noise(points: np.ndarray, cells_per_cm: float, offset: np.ndarray) -> np.ndarray:
    """The same, interpolated: for displacements and for bending other patterns, where steps would show."""
    where = _voxels(points, cells_per_cm, offset)
    i, j, k = (axis.astype(np.int32) for axis in where)
    x, y, z = (axis - low for axis, low in zip(where, (i, j, k), strict=True))

    def edge(dj: int, dk: int) -> np.ndarray:
        first, second = _voxel(i, j + dj, k + dk), _voxel(i + 1, j + dj, k + dk)
        return first + x * (second - first)

    corners = {jk: edge(*jk) for jk in ((0, 0), (1, 0), (0, 1), (1, 1))}
    near, far = (corners[0, dk] + y * (corners[1, dk] - corners[0, dk]) for dk in (0, 1))
    return (near + z * (far - near)).astype(np.float32)


def _voxels(points: np.ndarray, cells_per_cm: float, offset: np.ndarray) -> list[np.ndarray]:
    """Three [N] float32 coordinates in voxels, shifted by whole tiles until positive: cutting them is rounding down."""
    scale, shift = np.float32(cells_per_cm * VOXELS_PER_CELL), np.float32(offset * VOXELS_PER_CELL % SIDE + 64 * SIDE)
    return [points[:, axis] * scale + shift[axis] for axis in range(3)]


def _voxel(i: np.ndarray, j: np.ndarray, k: np.ndarray) -> np.ndarray:
    last = SIDE - 1
    return _tile().ravel()[((i & last) * SIDE + (j & last)) * SIDE + (k & last)]


def fractal(points: np.ndarray, cells_per_cm: tuple[float, ...], offset: np.ndarray, fall: float = 0.6) -> np.ndarray:
    """Sum of octaves, each `fall` times as strong as the one before; standard deviation about 1."""
    gains = fall ** np.arange(len(cells_per_cm))
    octaves = enumerate(zip(gains, cells_per_cm, strict=True))
    total = sum(gain * noise(points, cells, offset + 17.3 * k) for k, (gain, cells) in octaves)
    return total / np.float32(np.sqrt(np.square(gains).sum()))


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between; `low > high` falls instead of rising."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def unit(vectors: np.ndarray) -> np.ndarray:
    """[..., 3] scaled to length 1; zeros stay zeros."""
    return vectors / np.sqrt(np.maximum(np.einsum("...c,...c->...", vectors, vectors), 1e-12))[..., None]


def bump(x: np.ndarray, width: float) -> np.ndarray:
    """Bell of height 1 at 0."""
    return np.exp(-np.square(x / width))
