"""The energies of the linear fit: value, gradient and Gauss-Newton Hessian of one idea each.

Names equal the names of their weights in the settings. Steps are laid out as in `tracking.variables`.
All are sums of squares (the surface one robust), so that the half of the gradient and of the Hessian is kept:
value(x + d) ~ value + 2 gradient.d + d.hessian.d.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from davatar.tracking.correspondence import Pairs
from davatar.tracking.surface import FitSurface
from davatar.tracking.variables import EXPRESSION, FRAME, IDENTITY, POSE, FrameState


@dataclass(frozen=True)
class Quadratic:
    value: float
    gradient: np.ndarray  # [n], half of the derivative
    hessian: np.ndarray  # [n, n], half of the second derivative

    def __add__(self, other: Quadratic) -> Quadratic:
        return Quadratic(self.value + other.value, self.gradient + other.gradient, self.hessian + other.hessian)


@dataclass(frozen=True)
class ExpressionPrior:
    """Gaussian of captured expressions; its correlations keep a mouth together that depth shows badly."""

    mean: np.ndarray  # [53]
    precision: np.ndarray  # [53, 53]


def expression_prior(floor: float) -> ExpressionPrior:
    """
    Args:
        floor: standard deviation added to every direction, so that unseen combinations stay possible.
    """
    from davatar.prior.statistics import expression_statistics

    statistics = expression_statistics()
    covariance = statistics.covariance + floor**2 * np.eye(len(statistics.mean))
    return ExpressionPrior(statistics.mean, np.linalg.inv(covariance))


def surface_rows(surface: FitSurface, state: FrameState, posed: np.ndarray, pairs: Pairs, identity: bool) -> np.ndarray:
    """Derivative of the pair residuals (normals held) by a step.

    Args:
        posed: [K, 3] m, morphable frame: the vertices the pairs were made with, before the pose.

    Returns:
        [M, 59 or 159] m per step unit.
    """
    normal = pairs.normal
    arm = state.place(posed[pairs.vertex]) - state.center
    local = (normal @ state.rotation).astype(np.float32)
    rows = np.empty((len(normal), FRAME + (IDENTITY if identity else 0)), np.float32)
    rows[:, :3] = np.cross(arm, normal)
    rows[:, 3:POSE] = normal
    rows[:, POSE:FRAME] = _contract(local, surface.expression, pairs.vertex)
    if identity:
        rows[:, FRAME:] = _contract(local, surface.identity, pairs.vertex)
    return rows


def _contract(local: np.ndarray, directions: np.ndarray, vertex: np.ndarray) -> np.ndarray:
    chosen = directions[vertex]  # [M, 3, D]
    return np.matmul(local[:, None], chosen)[:, 0]


def robust_weight(scaled: np.ndarray, width: float) -> np.ndarray:
    """Geman-McClure weight of residuals in sigmas; it returns to zero, so hands and hair stop pulling."""
    return 1 / (1 + (scaled / width) ** 2) ** 2


def surface(
    rows: np.ndarray, residual: np.ndarray, sigma: np.ndarray, trust: np.ndarray, width: float
) -> tuple[Quadratic, np.ndarray]:
    """Depth points to the model surface, point to plane.

    Args:
        rows: [M, n] Jacobian; residual: [M] m; sigma: [M] m; trust: [M] 0..1.
        width: of the kernel, in sigmas.

    Returns:
        the energy, and the robust weight [M] of every pair.
    """
    scaled = residual / sigma
    robust = robust_weight(scaled, width)
    weight = trust * robust / sigma**2
    weighted = rows * weight[:, None].astype(np.float32)
    ratio = (scaled / width) ** 2
    value = float((trust * width**2 * ratio / (1 + ratio)).sum())
    gradient = weighted.T @ residual.astype(np.float32)
    return Quadratic(value, gradient.astype(np.float64), (weighted.T @ rows).astype(np.float64)), robust


def expression(state: FrameState, prior: ExpressionPrior, size: int) -> Quadratic:
    """How unlike captured expressions the weights are."""
    offset = state.expression - prior.mean
    return _expression_block(float(offset @ prior.precision @ offset), prior.precision @ offset, prior.precision, size)


def reg_expre_smo(state: FrameState, previous: np.ndarray, deviation: float, size: int) -> Quadratic:
    """Change of the weights since the neighbouring frame; `deviation` is what one frame may change."""
    offset = state.expression - previous
    precision = np.eye(EXPRESSION) / deviation**2
    return _expression_block(float(offset @ offset) / deviation**2, offset / deviation**2, precision, size)


def identity(coefficients: np.ndarray) -> Quadratic:
    """Coefficients in standard deviations: how unlike a head of the model's population (identity block only)."""
    return Quadratic(float(coefficients @ coefficients), coefficients, np.eye(IDENTITY))


def _expression_block(value: float, gradient: np.ndarray, hessian: np.ndarray, size: int) -> Quadratic:
    whole, square = np.zeros(size), np.zeros((size, size))
    whole[POSE:FRAME] = gradient
    square[POSE:FRAME, POSE:FRAME] = hessian
    return Quadratic(value, whole, square)
