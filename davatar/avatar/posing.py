"""Meshes of one person under any expression and head motion: what is rasterised to paint an avatar anew.

The geometry is the kind that the avatar was trained on: the neural head model under its codes, or the linear
one under its coefficients. World metres out, canonical coordinates in head-model units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from davatar.avatar.expressions import Expressions
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

    def at(self, rows: np.ndarray) -> Motion:
        """The frames [N] of this motion, in any order and as often as wanted."""
        return Motion(self.codes[rows], self.weights[rows], self.rotation[rows], self.translation[rows])


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
            f"the driver was tracked with head model {source.model}, the avatar with {target.model}",
            mend="track the driver again with the avatar's head model",
        )
    r_source, t_source = _mean_pose(source)
    r_target, t_target = _mean_pose(target)
    codes = source.expression
    if not codes.shape[1] and target.settings.get("geometry") == "neural":
        codes = _head_model(target).codes(target.morphable_identity, source.morphable_expression)[1].numpy()
    return Motion(
        codes=codes,
        weights=source.morphable_expression,
        rotation=r_target @ r_source.T @ source.rotation,
        translation=t_target + (source.translation - t_source) @ r_source @ r_target.T,
    )


def expressed_motion(
    expressions: Expressions, target: Track, count: int, fps: float, poses: Motion | None = None
) -> Motion:
    """Expressions over time on the target person.

    Args:
        count: frames.
        poses: whose head motion is kept, held after its end; None = the target's mean pose, still.

    Raises:
        DataError: codes of another head model, or a head model that has no morphable weights.
    """
    told = expressions.at(count, fps)
    codes, weights = _both(expressions, target, told)
    if poses is None:
        rotation, translation = _mean_pose(target)
        return Motion(codes, weights, np.tile(rotation, (count, 1, 1)), np.tile(translation, (count, 1)))
    rows = np.minimum(np.arange(count), len(poses) - 1)
    return Motion(codes, weights, poses.rotation[rows], poses.translation[rows])


def _both(expressions: Expressions, target: Track, told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [T, De] and morphable weights [T, 53], whichever of them is given."""
    needs_codes = target.settings.get("geometry", "linear") == "neural" or target.expression.shape[1] > 0
    if expressions.kind == "weights" and not needs_codes:
        return np.zeros((len(told), 0)), told
    model = _head_model(target)
    if expressions.kind == "weights":
        return model.codes(target.morphable_identity, told)[1].numpy(), told
    if told.shape[1] != model.expression_size:
        raise DataError(
            f"expression codes have {told.shape[1]} numbers, the avatar's head model takes {model.expression_size}",
            mend="draw them from a prior of the avatar's head model",
        )
    identity = torch.zeros(1, model.identity_size, dtype=model.dtype)
    weights = model.coefficients(identity, torch.as_tensor(told, dtype=model.dtype))[1].numpy()
    return told if needs_codes else np.zeros((len(told), 0)), weights


def _mean_pose(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Rotation nearest to the mean [3, 3], mean translation [3]."""
    u, _, vt = np.linalg.svd(track.rotation.mean(0))
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt, track.translation.mean(0)


def posed_meshes(target: Track, motion: Motion, restart: int = 1) -> Callable[[int], Mesh]:
    """frame -> mesh of the target person; the kind of geometry is `target.settings["geometry"]`.

    Args:
        restart: neural surfaces are followed from one frame to the next, and searched anew in frames that are
            multiples of this, so that a mesh does not depend on where a render was resumed.

    Raises:
        DataError: neural geometry, but codes of another length than the head model's.
    """
    if target.settings.get("geometry", "linear") == "neural":
        return _neural(target, motion, restart)
    morphable = motion.translation + motion.rotation @ (OFFSET / UNITS_PER_METRE)
    moved = replace(
        target,
        morphable_expression=motion.weights,
        morphable_rotation=motion.rotation,
        morphable_translation=morphable,
    )
    return linear_meshes(moved)


def _neural(target: Track, motion: Motion, restart: int) -> Callable[[int], Mesh]:
    model = _head_model(target)
    identity = torch.as_tensor(target.identity, dtype=model.dtype)
    last: tuple[int, Mesh] | None = None  # frame and surface before the rigid motion

    def mesh(row: int) -> Mesh:
        nonlocal last
        known = last[1] if last is not None and last[0] == row - 1 and row % restart else None
        if known is None or not np.array_equal(motion.codes[row], motion.codes[row - 1]):
            code = torch.as_tensor(motion.codes[row], dtype=model.dtype)
            known = model.mesh(identity, code, RESOLUTION, known)
        last = row, known
        return known.transformed(motion.rotation[row], motion.translation[row], target.scale / UNITS_PER_METRE)

    return mesh


def _head_model(target: Track) -> HeadModel:
    return _opened(target.model.partition("@")[0].partition(" ")[0] or "open")


@lru_cache(maxsize=1)
def _opened(name: str) -> HeadModel:
    return HeadModel.from_pretrained(name)
