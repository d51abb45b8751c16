"""Meshes of one person under any expression and head motion: what is rasterised to paint an avatar anew.

The geometry is the kind that the avatar was trained on: the neural head model under its codes, or the linear
one under its coefficients. World metres out, canonical coordinates in head-model units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from davatar.core.errors import DataError
from davatar.dataset.geometry import linear_meshes
from davatar.geometry.mesh import Mesh
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.morphable import OFFSET, UNITS_PER_METRE
from davatar.headmodel.track import Track

RESOLUTION = 96  # samples per axis of the neural surface; finer than a 128-pixel picture shows


@dataclass(frozen=True)
class Motion:
    """What moves a head, per frame."""

    codes: np.ndarray  # [T, De] of the neural head model; may be [T, 0]
    weights: np.ndarray  # [T, 53] morphable weights
    rotation: np.ndarray  # [T, 3, 3] head to world
    translation: np.ndarray  # [T, 3] m, world position of the head-model origin

    def __len__(self) -> int:
        return len(self.weights)


def own_motion(track: Track, rows: np.ndarray) -> Motion:
    """The tracked person's own."""
    told = track.expression[rows], track.morphable_expression[rows]
    return Motion(*told, track.rotation[rows], track.translation[rows])


def borrowed_motion(source: Track, target: Track) -> Motion:
    """Another person's expressions and head motion, moved to where the target's head is on average.

    The motion is taken relative to the source's mean pose, in head axes, so the two recordings may use
    different world axes.

    Raises:
        DataError: the two were tracked with different head models.
    """
    if source.expression.shape[1] and target.expression.shape[1] and source.model != target.model:
        raise DataError(
            f"was tracked with head model {source.model}, the avatar with {target.model}",
            mend="track it again with the avatar's head model",
        )
    r_source, t_source = _mean_pose(source)
    r_target, t_target = _mean_pose(target)
    return Motion(
        codes=source.expression,
        weights=source.morphable_expression,
        rotation=r_target @ r_source.T @ source.rotation,
        translation=t_target + (source.translation - t_source) @ r_source @ r_target.T,
    )


def _mean_pose(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Rotation nearest to the mean [3, 3], mean translation [3]."""
    u, _, vt = np.linalg.svd(track.rotation.mean(0))
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt, track.translation.mean(0)


def posed_meshes(target: Track, motion: Motion) -> Callable[[int], Mesh]:
    """frame -> mesh of the target person; the kind of geometry is `target.settings["geometry"]`.

    Raises:
        DataError: neural geometry, but codes of another length than the head model's.
    """
    if target.settings.get("geometry", "linear") == "neural":
        return _neural(target, motion)
    morphable = motion.translation + motion.rotation @ (OFFSET / UNITS_PER_METRE)
    moved = replace(
        target,
        morphable_expression=motion.weights,
        morphable_rotation=motion.rotation,
        morphable_translation=morphable,
    )
    return linear_meshes(moved)


def _neural(target: Track, motion: Motion) -> Callable[[int], Mesh]:
    model = HeadModel.from_pretrained(target.model.partition("@")[0].partition(" ")[0] or "open")
    identity = torch.as_tensor(target.identity, dtype=model.dtype)
    previous: list[Mesh] = []

    def mesh(row: int) -> Mesh:
        code = torch.as_tensor(motion.codes[row], dtype=model.dtype)
        found = model.mesh(identity, code, RESOLUTION, previous[0] if previous else None)
        previous[:] = [found]
        return found.transformed(motion.rotation[row], motion.translation[row], target.scale / UNITS_PER_METRE)

    return mesh
