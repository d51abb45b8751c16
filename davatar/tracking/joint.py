"""One identity for many frames: joint Gauss-Newton, every frame eliminated by its Schur complement.

A frame's 59 unknowns appear only in its own block, so the shared system is 100 x 100 whatever the number of
frames. Weights that rest on a bound are left out of the elimination. Frames: camera axes, m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from davatar.geometry.bounded_step import bounded_step, solve
from davatar.tracking.frame_fit import Problem, Sample, linearise
from davatar.tracking.variables import FRAME, IDENTITY, FrameState, bounds, stepped


def joint_round(
    problem: Problem,
    samples: Sequence[Sample],
    states: Sequence[FrameState],
    identity: np.ndarray,
    previous: Sequence[np.ndarray | None],
    width: float,
    each: Callable[[], None] = lambda: None,
) -> tuple[list[FrameState], np.ndarray]:
    """One Gauss-Newton step on all frames and the identity at once.

    Args:
        previous: per frame the neighbour's weights [53] or None.
        width: kernel width in sigmas.
        each: called after every linearised frame.

    Returns:
        the new states and identity [100].
    """
    shape = problem.surface.shape(identity)
    hessian, gradient = np.eye(IDENTITY), identity.copy()
    kept = []
    for sample, state, before in zip(samples, states, previous, strict=True):
        total, _, _ = linearise(problem, sample, state, shape, width, True, before)
        own, across = total.hessian[:FRAME, :FRAME], total.hessian[:FRAME, FRAME:]
        low, high = bounds(state, False)
        _, free = bounded_step(own, total.gradient[:FRAME], low, high)
        through = solve(own[np.ix_(free, free)], np.column_stack([across[free], total.gradient[:FRAME][free]]))
        hessian += total.hessian[FRAME:, FRAME:] - across[free].T @ through[:, :-1]
        gradient += total.gradient[FRAME:] - across[free].T @ through[:, -1]
        kept.append((state, own, across, total.gradient[:FRAME], low, high))
        each()
    shared = solve(hessian, -gradient)
    after = []
    for state, own, across, slope, low, high in kept:
        step, _ = bounded_step(own, slope + across @ shared, low, high)
        after.append(stepped(state, step))
    return after, identity + shared


def key_frames(
    states: Sequence[FrameState], quality: Sequence[float], count: int, weights_per_radian: float = 1.0
) -> list[int]:
    """Rows that differ most: farthest-point choice in viewing direction and expression weights.

    Args:
        quality: mean robust weight per row; rows below 0.7 of the median are passed over.
    """
    quality = np.asarray(quality)
    usable = np.flatnonzero(quality >= 0.7 * np.median(quality))
    seen = np.array([_view(states[row]) for row in usable])
    features = np.concatenate([seen, np.array([states[row].expression for row in usable]) / weights_per_radian], 1)
    chosen = [int(np.argmax(quality[usable]))]
    away = np.linalg.norm(features - features[chosen[0]], axis=1)
    while len(chosen) < min(count, len(usable)):
        chosen.append(int(np.argmax(away)))
        away = np.minimum(away, np.linalg.norm(features - features[chosen[-1]], axis=1))
    return sorted(int(usable[k]) for k in chosen)


def _view(state: FrameState) -> np.ndarray:
    """[3] unit direction from the head to the camera, in head axes."""
    toward = -state.center @ state.rotation
    return toward / np.linalg.norm(toward)
