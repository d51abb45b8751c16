"""Fits in camera axes -> `Track` in the recording's world, m."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.morphable import OFFSET, UNITS_PER_METRE
from davatar.headmodel.track import Track
from davatar.tracking.linear import LinearFit
from davatar.tracking.neural.fit import NeuralFit
from davatar.tracking.recording import Recording
from davatar.tracking.surface import fit_surface

NEAR = 0.006  # m: a model point counts as covered by depth


def assemble(recording: Recording, linear: LinearFit, neural: NeuralFit | None, model: HeadModel | None) -> Track:
    """
    Args:
        neural, model: None for a track of the linear stage alone; its codes are empty.
    """
    count = len(recording)
    to_world = [recording.camera(row).camera_to_world for row in range(count)]
    rows = linear.rows
    morphable = [(row.state.rotation, row.state.translation) for row in rows]
    if neural is None:
        poses, scale = morphable, 1.0
        identity, expression = np.zeros(0, np.float32), np.zeros((count, 0), np.float32)
        residual = np.array([row.residual_mm for row in rows])
    else:
        poses = [(state.rotation, state.translation) for state in neural.states]
        scale, identity = neural.scale, neural.identity.astype(np.float32)
        space_codes = np.array([state.expression for state in neural.states])
        expression = _codes(model, space_codes)
        residual = neural.residual_mm
    world = [_into(world, *pose) for world, pose in zip(to_world, poses, strict=True)]
    world_linear = [_into(world, *pose) for world, pose in zip(to_world, morphable, strict=True)]
    rotation = np.array([pose[0] for pose in world])
    origin = np.array([t - scale * R @ (OFFSET / UNITS_PER_METRE) for R, t in world])
    return Track(
        identity=identity,
        expression=expression,
        rotation=rotation,
        translation=origin,
        scale=scale,
        frames=recording.frames,
        residual_mm=residual,
        coverage=np.array([_coverage(recording, linear, row) for row in range(count)]),
        flag=np.array([row.flag for row in rows], np.uint8),
        morphable_identity=linear.identity,
        morphable_expression=np.array([row.state.expression for row in rows]),
        morphable_rotation=np.array([pose[0] for pose in world_linear]),
        morphable_translation=np.array([pose[1] for pose in world_linear]),
        model="morphable" if model is None else f"{model.name} {model.hash}",
    )


def _codes(model: HeadModel, coefficients: np.ndarray) -> np.ndarray:
    from davatar.tracking.neural.variables import CodeSpace

    return CodeSpace.of(model).expression(coefficients).numpy().astype(np.float32)


def _into(world: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return world[:3, :3] @ rotation, world[:3, :3] @ translation + world[:3, 3]


def _coverage(recording: Recording, linear: LinearFit, row: int) -> float:
    """Share of the model's points that face the camera and have a drawn depth point within 6 mm."""
    found = linear.rows[row]
    sample = recording.sample(row, found.cut) if found.tracked else None
    if sample is None or len(sample.points) == 0:
        return 0.0
    surface = fit_surface(linear.scalp)
    posed = surface.posed(surface.shape(linear.identity), found.state.expression)
    vertices = found.state.place(posed)
    normals = surface.normals(posed) @ found.state.rotation.T
    length = np.linalg.norm(vertices, axis=1)
    facing = ((vertices * normals).sum(1) < -0.3 * length) & (surface.confidence == 1)
    away, _ = cKDTree(sample.points).query(vertices[facing][::5], distance_upper_bound=NEAR)
    return float(np.isfinite(away).mean()) if len(away) else 0.0
