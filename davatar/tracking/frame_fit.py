"""Gauss-Newton on one frame of the linear fit, with or without the identity coefficients.

Pairs are renewed at every step while the robust kernel narrows. Frames: camera axes, m.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from davatar.geometry.bounded_step import bounded_step
from davatar.tracking import energies
from davatar.tracking.correspondence import pair
from davatar.tracking.energies import ExpressionPrior, Quadratic
from davatar.tracking.observation import sigma_at
from davatar.tracking.settings import LinearSettings
from davatar.tracking.surface import FitSurface
from davatar.tracking.variables import FRAME, FrameState, bounds, stepped


@dataclass(frozen=True)
class Sample:
    """The depth points of one frame that a fit uses, drawn once."""

    index: int  # frame of the capture
    points: np.ndarray  # [N, 3] m, camera axes
    normals: np.ndarray  # [N, 3]


@dataclass(frozen=True)
class Problem:
    """What all frames share."""

    surface: FitSurface
    prior: ExpressionPrior
    settings: LinearSettings


@dataclass(frozen=True)
class FrameFit:
    state: FrameState
    identity: np.ndarray  # [100]
    inliers: float  # mean robust weight over all drawn points before the last step, unpaired ones count zero
    residual_mm: float  # mean |point to plane| of the pairs, weighted by the kernel, before the last step


def widths(start: float, settings: LinearSettings, steps: int) -> np.ndarray:
    """[steps] kernel widths in sigmas, narrowing to `settings.kernel`."""
    return settings.kernel * np.maximum(start * settings.narrowing ** np.arange(steps), 1.0)


def linearise(
    problem: Problem,
    sample: Sample,
    state: FrameState,
    shape: np.ndarray,
    width: float,
    identity: bool,
    previous: np.ndarray | None,
) -> tuple[Quadratic, float, float]:
    """All energies of one frame (the identity prior excepted) about its present state.

    Args:
        shape: [K, 3] m, the person's neutral face.
        previous: [53] weights of the neighbouring frame, or None.

    Returns:
        the quadratic, the mean robust weight, the weighted mean |residual| in mm.
    """
    surface, settings = problem.surface, problem.settings
    posed = surface.posed(shape, state.expression)
    normals = surface.normals(posed) @ state.rotation.T
    pairs = pair(sample.points, sample.normals, state.place(posed), normals)
    rows = energies.surface_rows(surface, state, posed, pairs, identity)
    trust = surface.confidence[pairs.vertex] * (np.abs(pairs.residual) < settings.cut_mm / 1000)
    sigma = sigma_at(sample.points[pairs.point])
    measured, robust = energies.surface(rows, pairs.residual, sigma, trust, width)
    share = min(1.0, settings.effective_points / max(len(sample.points), 1))
    total = Quadratic(share * measured.value, share * measured.gradient, share * measured.hessian)
    total = total + energies.expression(state, problem.prior, rows.shape[1])
    if previous is not None:
        total = total + energies.reg_expre_smo(state, previous, settings.change, rows.shape[1])
    inliers = float(robust.sum()) / max(len(sample.points), 1)
    weight = robust * trust
    residual = float((weight * np.abs(pairs.residual)).sum() / max(weight.sum(), 1e-9))
    return total, inliers, 1000 * residual


def fit_frame(
    problem: Problem,
    sample: Sample,
    state: FrameState,
    identity: np.ndarray,
    *,
    start_width: float,
    steps: int,
    previous: np.ndarray | None = None,
    free_identity: bool = False,
) -> FrameFit:
    """Fit pose and weights (and identity) to one frame.

    Args:
        state, identity: the start.
        start_width: how many times wider than `settings.kernel` the kernel begins.
    """
    shape = problem.surface.shape(identity)
    narrowest = problem.settings.kernel
    for width in widths(start_width, problem.settings, steps):
        total, inliers, residual = linearise(problem, sample, state, shape, width, free_identity, previous)
        if free_identity:
            total = _with_identity(total, identity)
        low, high = bounds(state, free_identity)
        step, _ = bounded_step(total.hessian, total.gradient, low, high)
        step = _limited(step)
        state = stepped(state, step)
        if free_identity:
            identity = identity + step[FRAME:]
            shape = problem.surface.shape(identity)
        elif width == narrowest and _tiny(step):
            break
    return FrameFit(state, identity, inliers, residual)


def _with_identity(total: Quadratic, coefficients: np.ndarray) -> Quadratic:
    prior = energies.identity(coefficients)
    gradient, hessian = total.gradient.copy(), total.hessian.copy()
    gradient[FRAME:] += prior.gradient
    hessian[FRAME:, FRAME:] += prior.hessian
    return Quadratic(total.value + prior.value, gradient, hessian)


def _limited(step: np.ndarray) -> np.ndarray:
    """Pose steps of at most 0.3 rad and 40 mm: the linearisation holds no farther."""
    out = step.copy()
    out[:3] *= min(1.0, 0.3 / max(float(np.linalg.norm(step[:3])), 1e-12))
    out[3:6] *= min(1.0, 0.04 / max(float(np.linalg.norm(step[3:6])), 1e-12))
    return out


def _tiny(step: np.ndarray) -> bool:
    return bool(np.abs(step[:3]).max() < 5e-4 and np.abs(step[3:6]).max() < 5e-5 and np.abs(step[6:FRAME]).max() < 4e-3)
