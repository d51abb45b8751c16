"""Where the head is, from one depth image alone: no colour, no landmarks, no learnt detector.

Heads are the round things with free space around them: every surface patch votes along its inward
normal at head radii, and a peak counts for as much as its surroundings are empty (shoulders, arms and
walls are round too, but attached). Frame: camera axes (OpenCV, y down), m; the camera is held upright.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from davatar.geometry.camera import Camera

NEAR, FAR = 0.15, 1.6  # m; nearer or farther heads carry too few usable points
RADII = (0.080, 0.095, 0.110)  # m
VOXEL = 0.012  # m
PEAKS = 10
BLANK = 6  # voxels around a peak that cannot hold another head
PATCH_MM_AT_HALF_METRE = 4.0
BALL = 0.175  # m about the centre; with the cut below it holds at least 97 % of a face
CUT_BELOW = 0.165  # m


@dataclass(frozen=True)
class HeadCandidate:
    center: np.ndarray  # [3] m, camera axes; near (0, 0.059, 0.018) of the morphable frame
    score: float  # votes times the free share of the surroundings; comparable within one image


def patches(depth: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth image -> coarse surface patches.

    Args:
        depth: [H, W] m, NaN = none.

    Returns:
        points [N, 3] m, normals [N, 3] towards the camera, area [N] m2; camera axes.
    """
    block = max(1, round(camera.K[0, 0] * PATCH_MM_AT_HALF_METRE / 500))
    rows, columns = depth.shape[0] // block, depth.shape[1] // block
    cells = depth[: rows * block, : columns * block].reshape(rows, block, columns, block)
    cells = cells.transpose(0, 2, 1, 3).reshape(rows, columns, -1).astype(np.float32)
    usable = np.isfinite(cells) & (cells > NEAR) & (cells < FAR)
    enough = usable.sum(-1) * 4 >= block * block
    z = np.full((rows, columns), np.nan, np.float32)
    if enough.any():
        z[enough] = np.nanmedian(np.where(usable[enough], cells[enough], np.nan), axis=-1)
    z = mean_of_near(z, 1, 0.015)
    center = (block - 1) / 2
    u = (np.arange(columns) * block + center - camera.K[0, 2]) / camera.K[0, 0]
    v = (np.arange(rows) * block + center - camera.K[1, 2]) / camera.K[1, 1]
    grid = np.stack([z * u[None], z * v[:, None], z], -1)
    normals = grid_normals(grid)
    good = np.isfinite(normals).all(-1) & np.isfinite(z)
    points, normals, z = grid[good], normals[good], z[good]
    facing = -(normals * points).sum(-1) / np.linalg.norm(points, axis=-1)
    area = (block * z) ** 2 / (camera.K[0, 0] * camera.K[1, 1]) / np.clip(facing, 0.2, 1)
    return points, normals, area


def mean_of_near(depth: np.ndarray, reach: int, limit: float) -> np.ndarray:
    """Mean over the (2 reach + 1)^2 neighbours whose depth differs by less than `limit` m; NaN stays NaN."""
    height, width = depth.shape
    filled = np.where(np.isfinite(depth), depth, 1e6).astype(np.float32)
    total, count = filled.copy(), np.ones_like(filled)
    offsets = [(r, c) for r in range(reach + 1) for c in range(-reach, reach + 1) if (r, c) > (0, 0)]
    for r, c in offsets:  # each unordered pair of pixels once
        here = np.s_[: height - r, max(0, -c) : width - max(0, c)]
        there = np.s_[r:, max(0, c) : width + min(0, c)]
        near = (np.abs(filled[here] - filled[there]) < limit).astype(np.float32)
        total[here] += near * filled[there]
        total[there] += near * filled[here]
        count[here] += near
        count[there] += near
    return np.where(np.isfinite(depth), total / count, np.nan).astype(depth.dtype)


def grid_normals(grid: np.ndarray) -> np.ndarray:
    """[h, w, 3] points on an image grid, m -> unit normals towards the camera by central differences; border NaN."""
    normals = np.full_like(grid, np.nan)
    across = grid[1:-1, 2:] - grid[1:-1, :-2]
    down = grid[2:, 1:-1] - grid[:-2, 1:-1]
    inner = np.cross(down, across)
    with np.errstate(invalid="ignore", divide="ignore"):
        normals[1:-1, 1:-1] = inner / np.linalg.norm(inner, axis=-1, keepdims=True)
    return normals


def find_heads(depth: np.ndarray, camera: Camera) -> list[HeadCandidate]:
    """Candidates, best first; empty when nothing lies in range.

    Args:
        depth: [H, W] m along z, NaN = none.
        camera: the view that took it.
    """
    points, normals, area = patches(depth, camera)
    if len(points) < 30:
        return []
    votes, origin = _vote(points, normals, area)
    candidates = []
    for _ in range(PEAKS):
        peak = np.unravel_index(np.argmax(votes), votes.shape)
        if votes[peak] <= 0:
            break
        center = origin + (np.array(peak) + 0.5) * VOXEL
        away = np.linalg.norm(points - center, axis=1)
        inside = area[away < 0.140].sum()
        ring = area[(away > 0.160) & (away < 0.280) & (points[:, 1] - center[1] < 0.030)].sum()
        candidates.append(HeadCandidate(center, float(votes[peak] * inside / max(inside + 2 * ring, 1e-9))))
        window = tuple(slice(max(0, k - BLANK), k + BLANK + 1) for k in peak)
        votes[window] = 0
    return sorted(candidates, key=lambda candidate: -candidate.score)


def _vote(points: np.ndarray, normals: np.ndarray, area: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ballots = np.concatenate([points - radius * normals for radius in RADII])
    origin = ballots.min(0)
    cell = ((ballots - origin) / VOXEL).astype(np.int64)
    shape = cell.max(0) + 1
    flat = np.bincount(np.ravel_multi_index(tuple(cell.T), shape), np.tile(area, len(RADII)), minlength=shape.prod())
    return gaussian_filter(flat.reshape(shape).astype(np.float32), 1.5, truncate=3), origin


def in_head(points: np.ndarray, center: np.ndarray) -> np.ndarray:
    """[...] bool: points [..., 3] m (camera axes) inside the head region about `center`."""
    offset = points - center
    return ((offset**2).sum(-1) < BALL**2) & (offset[..., 1] < CUT_BELOW)
