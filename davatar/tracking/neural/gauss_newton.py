"""Gauss-Newton on the neural field: one frame alone, or many frames with one identity.

The same robust point energy, bounds and Schur complement as the linear fit, with the field's own derivatives
in place of the linear model's. Camera axes, m; residuals in mm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from davatar.geometry.bounded_step import bounded_step, solve
from davatar.tracking import energies
from davatar.tracking.energies import ExpressionPrior, Quadratic
from davatar.tracking.neural.prior_pull import PriorPull
from davatar.tracking.neural.residual import field_rows
from davatar.tracking.neural.variables import POSE, CodeSpace, NeuralState, bounds, stepped
from davatar.tracking.observation import sigma_at
from davatar.tracking.settings import NeuralSettings, Stage

SAME_WAY = 0.5  # cosine between measured and model normal


@dataclass(frozen=True)
class Evidence:
    """The depth points of one frame that the neural fit uses, and where the linear fit left the frame."""

    row: int
    start: NeuralState
    points: np.ndarray  # [N, 3] m, camera axes
    normals: np.ndarray  # [N, 3] unit, towards the camera
    trust: np.ndarray  # [N] 0..1
    hidden: np.ndarray  # [53, 53] mm^2 per squared morphable weight: see `hidden`


@dataclass(frozen=True)
class NeuralProblem:
    space: CodeSpace
    settings: NeuralSettings
    gaussian: ExpressionPrior | None  # only where coefficients are the morphable model's
    expression_pull: PriorPull | None
    identity_pull: PriorPull | None


@dataclass(frozen=True)
class Figures:
    inliers: float  # mean robust weight
    residual_mm: float  # weighted mean |distance|
    energies: dict[str, float]


ENERGIES = {"surface", "expression", "sds_expr", "reg_expre_smo", "reg_start", "reg_hidden", "identity", "sds_shape"}
START_DEVIATION = np.array([0.005] * 3 + [0.0005] * 3)  # rad, m: how far a pose may leave the linear fit's
START_CHANGE = 0.1  # the same for an expression coefficient


def linearise(
    problem: NeuralProblem,
    stage: Stage,
    evidence: Evidence,
    state: NeuralState,
    identity: np.ndarray,
    width: float,
    previous: np.ndarray | None,
    by_identity: bool,
) -> tuple[Quadratic, Figures]:
    """All energies of one frame about its state; the identity's own energies excepted.

    Args:
        width: of the robust kernel, in sigmas.
        previous: [J] coefficients of the neighbouring frame, or None.
    """
    settings, space, weights = problem.settings, problem.space, stage.weights
    field = field_rows(space, state, identity, evidence.points, by_identity)
    size = field.rows.shape[1]
    rows = np.concatenate([field.rows, field.identity_rows], 1) if by_identity else field.rows
    same = (field.normal * evidence.normals).sum(1) > SAME_WAY
    trust = evidence.trust * same * (np.abs(field.residual) < settings.cut_mm)
    sigma = np.hypot(1000 * sigma_at(evidence.points), settings.model_error_mm)
    measured, robust = energies.surface(rows, field.residual, sigma, trust, width)
    share = min(1.0, settings.effective_points / max(len(evidence.points), 1))
    parts = {"surface": scaled(measured, weights["surface"] * share)}
    if "expression" in weights and problem.gaussian is not None:
        offset = state.expression - problem.gaussian.mean
        precision = problem.gaussian.precision
        prior = Quadratic(float(offset @ precision @ offset), precision @ offset, precision)
        parts["expression"] = scaled(_placed(prior, POSE, len(measured.gradient)), weights["expression"])
    if "sds_expr" in weights and problem.expression_pull is not None:
        pull = problem.expression_pull.quadratic(space.expression(state.expression), evidence.row)
        parts["sds_expr"] = scaled(_placed(pull, POSE, len(measured.gradient)), weights["sds_expr"])
    if "reg_expre_smo" in weights and previous is not None:
        offset = (state.expression - previous) / settings.change**2
        stiff = np.eye(len(offset)) / settings.change**2
        change = Quadratic(float(offset @ (state.expression - previous)), offset, stiff)
        parts["reg_expre_smo"] = scaled(_placed(change, POSE, len(measured.gradient)), weights["reg_expre_smo"])
    if "reg_start" in weights:
        near = _placed(_to_start(state, evidence.start), 0, len(measured.gradient))
        parts["reg_start"] = scaled(near, weights["reg_start"])
    if "reg_hidden" in weights and space.morphable and len(sigma):
        offset = state.expression - evidence.start.expression
        missing = evidence.hidden * share / np.median(sigma) ** 2
        unseen = Quadratic(float(offset @ missing @ offset), missing @ offset, missing)
        parts["reg_hidden"] = scaled(_placed(unseen, POSE, len(measured.gradient)), weights["reg_hidden"])
    total = sum(list(parts.values())[1:], parts["surface"])
    total = _held(total, stage, size)
    weight = robust * trust
    residual = float((weight * np.abs(field.residual)).sum() / max(weight.sum(), 1e-9))
    inliers = float(weight.sum() / max(evidence.trust.sum(), 1e-9))
    return total, Figures(inliers, residual, {name: part.value for name, part in parts.items()})


def _to_start(state: NeuralState, start: NeuralState) -> Quadratic:
    """How far pose and coefficients have gone from the linear fit's, which saw more points and another surface."""
    turn = Rotation.from_matrix(state.rotation @ start.rotation.T).as_rotvec()
    offset = np.concatenate([turn, state.center - start.center, state.expression - start.expression])
    stiff = np.concatenate([START_DEVIATION, np.full(len(start.expression), START_CHANGE)]) ** -2.0
    return Quadratic(float(offset @ (stiff * offset)), stiff * offset, np.diag(stiff))


def scaled(quadratic: Quadratic, weight: float) -> Quadratic:
    return Quadratic(weight * quadratic.value, weight * quadratic.gradient, weight * quadratic.hessian)


def _placed(block: Quadratic, at: int, size: int) -> Quadratic:
    gradient, hessian = np.zeros(size), np.zeros((size, size))
    span = slice(at, at + len(block.gradient))
    gradient[span], hessian[span, span] = block.gradient, block.hessian
    return Quadratic(block.value, gradient, hessian)


def _held(total: Quadratic, stage: Stage, size: int) -> Quadratic:
    """Unknowns the stage does not move get a wall instead of their energies."""
    still = np.zeros(len(total.gradient), bool)
    still[:POSE] = "pose" not in stage.moves
    still[POSE:size] = "expression" not in stage.moves
    if not still.any():
        return total
    gradient, hessian = total.gradient.copy(), total.hessian.copy()
    gradient[still] = 0
    hessian[still], hessian[:, still] = 0, 0
    hessian[still, still] = 1
    return Quadratic(total.value, gradient, hessian)


def identity_energies(problem: NeuralProblem, stage: Stage, identity: np.ndarray) -> Quadratic:
    """Energies of the identity alone, along its basis [K]."""
    size = problem.space.identity_basis.shape[1]
    total = Quadratic(0.0, np.zeros(size), 1e-6 * np.eye(size))
    if "identity" in stage.weights and problem.space.morphable:
        coefficients = problem.space.identity_inverse @ identity
        total = total + scaled(energies.identity(coefficients), stage.weights["identity"])
    if "sds_shape" in stage.weights and problem.identity_pull is not None:
        code = torch.as_tensor(identity, dtype=problem.space.model.dtype)
        total = total + scaled(problem.identity_pull.quadratic(code, 0), stage.weights["sds_shape"])
    return total


def fit_frame(
    problem: NeuralProblem,
    stage: Stage,
    evidence: Evidence,
    state: NeuralState,
    identity: np.ndarray,
    previous: np.ndarray | None,
) -> tuple[NeuralState, Figures]:
    """Pose and coefficients of one frame; the identity is held."""
    figures = Figures(0.0, 0.0, {})
    for k in range(stage.iterations):
        width = problem.settings.kernel * max(stage.width * 0.6**k, 1.0)
        total, figures = linearise(problem, stage, evidence, state, identity, width, previous, False)
        low, high = bounds(state, problem.space.bounded)
        step, _ = bounded_step(total.hessian, total.gradient, low, high)
        state = stepped(state, _limited(step), problem.space.bounded)
    return state, figures


def joint_round(
    problem: NeuralProblem,
    stage: Stage,
    evidence: Sequence[Evidence],
    states: Sequence[NeuralState],
    identity: np.ndarray,
    previous: Sequence[np.ndarray | None],
    width: float,
    each: Callable[[], None] = lambda: None,
) -> tuple[list[NeuralState], np.ndarray]:
    """One step on all frames and the identity; the frames are eliminated from the identity's system."""
    own_energies = identity_energies(problem, stage, identity)
    hessian, gradient = own_energies.hessian, own_energies.gradient
    kept = []
    for one, state, before in zip(evidence, states, previous, strict=True):
        total, _ = linearise(problem, stage, one, state, identity, width, before, True)
        size = POSE + len(state.expression)
        own, across, slope = total.hessian[:size, :size], total.hessian[:size, size:], total.gradient[:size]
        low, high = bounds(state, problem.space.bounded)
        _, free = bounded_step(own, slope, low, high)
        through = solve(own[np.ix_(free, free)], np.column_stack([across[free], slope[free]]))
        hessian = hessian + total.hessian[size:, size:] - across[free].T @ through[:, :-1]
        gradient = gradient + total.gradient[size:] - across[free].T @ through[:, -1]
        kept.append((state, own, across, slope, low, high))
        each()
    shared = solve(hessian, -gradient)
    after = []
    for state, own, across, slope, low, high in kept:
        step, _ = bounded_step(own, slope + across @ shared, low, high)
        after.append(stepped(state, _limited(step), problem.space.bounded))
    basis = problem.space.identity_basis.numpy().astype(np.float64)
    return after, identity + basis @ shared


def _limited(step: np.ndarray) -> np.ndarray:
    """Pose steps of at most 0.1 rad and 10 mm: the linear fit is never farther off."""
    out = step.copy()
    out[:3] *= min(1.0, 0.1 / max(float(np.linalg.norm(step[:3])), 1e-12))
    out[3:POSE] *= min(1.0, 0.01 / max(float(np.linalg.norm(step[3:POSE])), 1e-12))
    return out
