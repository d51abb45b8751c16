"""What the linear fit solves for, and the one place where it becomes a flat vector and back.

Per frame: pose (rotation, translation) and expression weights; per sequence: identity coefficients.
Steps are [turn 3, shift 3, expression 53 | identity 100]; the pose part turns about the head's centre, so
that rotation and translation hardly mix. Frames: morphable m -> camera axes m, x_camera = R x + t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from davatar.tracking import so3
from davatar.tracking.surface import HEAD_CENTER

POSE = 6
EXPRESSION = 53
IDENTITY = 100
FRAME = POSE + EXPRESSION


@dataclass(frozen=True)
class FrameState:
    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3] m
    expression: np.ndarray  # [53] weights, 0..1

    @property
    def center(self) -> np.ndarray:
        """[3] m, camera axes: where the head's centre is."""
        return self.rotation @ HEAD_CENTER + self.translation

    def place(self, points: np.ndarray) -> np.ndarray:
        """[K, 3] m, morphable -> camera axes."""
        return points @ self.rotation.T + self.translation


def split(step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """[59 or 159] -> turn [3], shift [3], expression [53], identity [0 or 100]."""
    return step[:3], step[3:POSE], step[POSE:FRAME], step[FRAME:]


def stepped(state: FrameState, step: np.ndarray) -> FrameState:
    """The state after a step: R <- exp([turn]) R about the head's centre, then shifted; weights stay in 0..1."""
    turn, shift, expression, _ = split(step)
    rotation = so3.orthonormal(so3.exp(turn) @ state.rotation)
    center = state.center + shift
    weights = np.clip(state.expression + expression, 0, 1)
    return FrameState(rotation, center - rotation @ HEAD_CENTER, weights)


def bounds(state: FrameState, identity: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest step that keeps the weights in 0..1; pose and identity are free."""
    size = FRAME + (IDENTITY if identity else 0)
    low, high = np.full(size, -np.inf), np.full(size, np.inf)
    low[POSE:FRAME], high[POSE:FRAME] = -state.expression, 1 - state.expression
    return low, high


def extrapolated(last: FrameState, before: FrameState | None, limit: float = 0.10) -> FrameState:
    """Constant velocity: the motion from `before` to `last` once more, its shift at most `limit` m."""
    if before is None:
        return last
    velocity = last.center - before.center
    velocity *= min(1.0, limit / max(float(np.linalg.norm(velocity)), 1e-9))
    rotation = so3.orthonormal(last.rotation @ before.rotation.T @ last.rotation)
    moved = replace(last, rotation=rotation)
    return replace(moved, translation=last.center + velocity - rotation @ HEAD_CENTER)
