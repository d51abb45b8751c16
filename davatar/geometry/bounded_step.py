"""Minimise a convex quadratic under bounds: the step of every Gauss-Newton iteration.

Primal-dual active set: solve the free unknowns, fix those beyond a bound, release those that pull
inwards, repeat. A handful of rounds for 53 weights in 0..1.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve


def bounded_step(
    hessian: np.ndarray, gradient: np.ndarray, low: np.ndarray, high: np.ndarray, rounds: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """argmin_d gradient.d + d.hessian.d / 2 with low <= d <= high.

    Args:
        hessian: [n, n] symmetric positive definite.
        gradient: [n].
        low, high: [n], may be infinite; low <= 0 <= high.

    Returns:
        step [n] within the bounds, free [n] bool: unknowns that rest on no bound.
    """
    step = np.zeros(len(gradient))
    below, above = np.zeros(len(gradient), bool), np.zeros(len(gradient), bool)
    for _ in range(rounds):
        free = ~(below | above)
        step = np.where(below, low, np.where(above, high, 0.0))
        rest = hessian[np.ix_(free, ~free)] @ step[~free] if (~free).any() else 0.0
        step[free] = solve(hessian[np.ix_(free, free)], -(gradient[free] + rest))
        slope = gradient + hessian @ step
        now_below = (below & (slope > 0)) | (free & (step < low))
        now_above = (above & (slope < 0)) | (free & (step > high))
        if (now_below == below).all() and (now_above == above).all():
            break
        below, above = now_below, now_above
    return np.clip(step, low, high), ~(below | above)


def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solution of a symmetric positive definite system; a nearly singular one gets the smallest ridge that helps."""
    ridge = 0.0
    scale = max(float(np.trace(matrix)) / max(len(matrix), 1), 1e-30)
    for _ in range(8):
        try:
            return cho_solve(cho_factor(matrix + ridge * np.eye(len(matrix)), check_finite=False), right)
        except np.linalg.LinAlgError:
            ridge = max(ridge * 100, 1e-12 * scale)
    return np.linalg.lstsq(matrix, right, rcond=None)[0]
