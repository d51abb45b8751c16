"""Where a head looks, from geometry alone: the mean head is aligned from many starts, the best one wins.

The score needs no truth: distance of the data to the model, free space the model would have to fill, model parts
inside something, and model parts without measurement. Covered or absent heads score badly (above `REFUSE`), so a
track never starts there. Frames: morphable m -> camera axes m, x_camera = R x + t.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from davatar.geometry.mesh import vertex_normals
from davatar.headmodel.morphable import SEE_THROUGH, open_morphable
from davatar.tracking import so3
from davatar.tracking.observation import Observation
from davatar.tracking.surface import INNER, without_neck

VOTE_CENTER = np.array([0.0, 0.055, 0.005])  # m, morphable frame: what the head votes meet in
YAWS = np.deg2rad([-90, -60, -30, 0, 30, 60, 90])
PITCHES = np.deg2rad([-15, 15])
GOOD, REFUSE = 0.58, 0.60  # surely a head; no start above (heads reach 0.3 to 0.58, torsos 0.62 and more)
UPRIGHT = 0.7  # least cosine between the head's and the camera's up: nobody starts with the head lying on a shoulder
BURIED = 1.5  # weight of model parts behind the measured surface
HAIR = 0.15  # weight of scalp points


@dataclass(frozen=True)
class PoseGuess:
    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3] m
    score: float  # lower is better; below GOOD a head, above REFUSE none


@dataclass(frozen=True)
class _MeanHead:
    vertices: np.ndarray  # [K, 3] m
    normals: np.ndarray  # [K, 3]
    weight: np.ndarray  # [K]
    tree: cKDTree
    landmarks: np.ndarray  # [68, 3] m


@lru_cache(maxsize=1)
def _mean_head() -> _MeanHead:
    model = open_morphable()
    hidden = ("eye_socket_left", "eye_socket_right", "eyeball_left", "eyeball_right")
    used = ~model.in_regions(*SEE_THROUGH, *INNER, *hidden) & without_neck(model.neutral)
    weight = np.ones(len(used))
    weight[model.sets["scalp"]] = HAIR
    normals = vertex_normals(model.neutral, model.triangles)
    vertices = model.neutral[used].astype(np.float64)
    return _MeanHead(vertices, normals[used], weight[used], cKDTree(vertices), model.neutral[model.landmarks])


def estimate_pose(
    observation: Observation,
    center: np.ndarray,
    landmarks: np.ndarray | None = None,
    seed: int = 0,
) -> PoseGuess:
    """The best alignment of the mean head.

    Args:
        observation: the head region.
        center: [3] m, camera axes: the head centre the region was cut about.
        landmarks: [68, 3] m, camera axes, NaN = none; adds one start.
    """
    starts = [
        (so3.facing_camera(yaw, pitch), center - so3.facing_camera(yaw, pitch) @ VOTE_CENTER)
        for yaw in YAWS
        for pitch in PITCHES
    ]
    guess = None if landmarks is None else from_landmarks(landmarks)
    if guess is not None:
        starts.append(guess)
    rotations = np.stack([start[0] for start in starts])
    translations = np.stack([start[1] for start in starts])
    few, few_normals = observation.sample(400, seed)
    if len(few) < 50:
        return PoseGuess(rotations[0], translations[0], np.inf)
    rotations, translations = _align(rotations, translations, few, few_normals, np.geomspace(0.040, 0.015, 6))
    score = [_score(observation, R, t, few, few_normals) for R, t in zip(rotations, translations, strict=True)]
    best = np.argsort(score)[:4]
    many, many_normals = observation.sample(1500, seed)
    widths = np.geomspace(0.015, 0.008, 15)
    rotations, translations = _align(rotations[best], translations[best], many, many_normals, widths)
    score = [_score(observation, R, t, many, many_normals) for R, t in zip(rotations, translations, strict=True)]
    winner = int(np.argmin(score))
    return PoseGuess(rotations[winner], translations[winner], float(score[winner]))


def _align(rotations, translations, points, normals, widths):
    """Point-to-plane alignment of all starts at once; the data are carried into the head frame."""
    head = _mean_head()
    for width in widths:
        local = (points[None] - translations[:, None]) @ rotations  # rows: R^T (p - t)
        local_normals = normals[None] @ rotations
        away, vertex = head.tree.query(local.reshape(-1, 3), distance_upper_bound=0.12)
        found = np.isfinite(away)
        vertex = np.where(found, vertex, 0)
        normal = head.normals[vertex]
        offset = local.reshape(-1, 3) - head.vertices[vertex]
        residual = (normal * offset).sum(-1)
        agree = (normal * local_normals.reshape(-1, 3)).sum(-1) > 0.29  # 73 degrees
        weight = found * agree * head.weight[vertex] / (1 + (away / width) ** 2) ** 2
        weight = np.where(found, weight, 0.0)
        rows = np.concatenate([np.cross(local.reshape(-1, 3), normal), normal], -1)
        rows, residual, weight = (a.reshape(len(rotations), len(points), -1) for a in (rows, residual, weight))
        weighted = rows * weight
        system = np.einsum("snk,snl->skl", weighted, rows) + 1e-9 * np.eye(6)
        right = -(weighted * residual).sum(1)
        step = np.linalg.solve(system, right[..., None])[..., 0]
        step[:, :3] = _bounded(step[:, :3], 0.4)
        step[:, 3:] = _bounded(step[:, 3:], 0.05)
        # the data move by `step` in the head frame, so the head moves by its inverse
        turn = so3.exp(step[:, :3])
        new = rotations @ np.swapaxes(turn, 1, 2)
        translations = translations - np.einsum("sij,sj->si", new, step[:, 3:])
        rotations = new
    return rotations, translations


def _bounded(step: np.ndarray, limit: float) -> np.ndarray:
    length = np.linalg.norm(step, axis=-1, keepdims=True)
    return step * np.minimum(1, limit / np.maximum(length, 1e-12))


def _score(observation: Observation, rotation, translation, points, normals) -> float:
    head = _mean_head()
    if -rotation[1, 1] < UPRIGHT:
        return np.inf
    local = (points - translation) @ rotation
    away, vertex = head.tree.query(local)
    normal = head.normals[vertex]
    residual = np.abs((normal * (local - head.vertices[vertex])).sum(-1))
    residual = np.where(away > 0.03, away, residual)
    weight = head.weight[vertex]
    misfit = (weight * np.minimum(residual / 0.012, 1)).sum() / weight.sum()

    keep = slice(None, None, 8)
    world = head.vertices[keep] @ rotation.T + translation
    outward = head.normals[keep] @ rotation.T
    visible = ((outward * world).sum(-1) < -0.2 * np.linalg.norm(world, axis=-1)) & (head.weight[keep] == 1)
    world = world[visible]
    camera, depth = observation.camera, observation.depth
    pixel = world @ camera.K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        column, row = np.rint(pixel[:, :2] / pixel[:, 2:]).T
    inside = (world[:, 2] > 0.05) & (column >= 0) & (column < depth.shape[1]) & (row >= 0) & (row < depth.shape[0])
    measured = np.full(len(world), np.nan)
    measured[inside] = depth[row[inside].astype(int), column[inside].astype(int)]
    if len(world) == 0 or np.isnan(measured).all():
        return np.inf
    with np.errstate(invalid="ignore"):
        through = (measured > world[:, 2] + 0.015).mean()
        buried = (measured < world[:, 2] - 0.015).mean()
    return float(misfit + through + BURIED * buried + 0.5 * np.isnan(measured).mean())


def from_landmarks(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Rigid pose from the 51 inner landmarks [68, 3] m, robust to wild ones; None if fewer than 12 are there."""
    found = np.isfinite(landmarks).all(-1)
    found[:17] = False  # contour points slide with the view
    if found.sum() < 12:
        return None
    source, target = _mean_head().landmarks[found], landmarks[found]
    weight = np.ones(len(source))
    for _ in range(10):
        rotation, translation = procrustes(source, target, weight)
        away = np.linalg.norm(source @ rotation.T + translation - target, axis=1)
        width = max(2 * np.median(away), 0.004)
        weight = 1 / (1 + (away / width) ** 2) ** 2
    return rotation, translation


def procrustes(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R, t minimising sum weight |R source + t - target|^2; arrays [N, 3], [N, 3], [N]."""
    weight = weight / weight.sum()
    mean_source, mean_target = weight @ source, weight @ target
    u, _, v = np.linalg.svd(((source - mean_source) * weight[:, None]).T @ (target - mean_target))
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ v))])
    rotation = (u @ flip @ v).T
    return rotation, mean_target - rotation @ mean_source
