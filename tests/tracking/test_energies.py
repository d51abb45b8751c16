"""Values, gradients and Jacobians of the fits agree with finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from davatar.diffusion.schedule import cosine_schedule
from davatar.prior.code_prior import CodePrior
from davatar.prior.normalization import LinearNormalization
from davatar.tracking import energies, so3
from davatar.tracking.correspondence import Pairs
from davatar.tracking.neural.prior_pull import PriorPull
from davatar.tracking.surface import fit_surface
from davatar.tracking.variables import FRAME, IDENTITY, FrameState, bounds, extrapolated, stepped


@pytest.fixture(scope="module")
def state() -> FrameState:
    random = np.random.default_rng(0)
    return FrameState(so3.facing_camera(0.3, -0.1), np.array([0.02, 0.03, 0.6]), random.uniform(0.2, 0.5, 53))


def test_surface_rows_are_the_residuals_derivative(state):
    surface, random = fit_surface(), np.random.default_rng(1)
    coefficients = random.normal(size=IDENTITY)
    vertex = random.integers(0, len(surface.vertices), 40)
    shape = surface.shape(coefficients)
    posed = surface.posed(shape, state.expression)
    normal = surface.normals(posed)[vertex] @ state.rotation.T
    points = state.place(posed[vertex]) + random.normal(0, 0.002, (40, 3))
    pairs = Pairs(np.arange(40), vertex, normal, (normal * (state.place(posed[vertex]) - points)).sum(1))
    rows = energies.surface_rows(surface, state, posed, pairs, identity=True)

    def residual(step):
        moved = stepped(state, step[:FRAME])
        there = surface.posed(surface.shape(coefficients + step[FRAME:]), moved.expression)[vertex]
        return (normal * (moved.place(there.astype(np.float64)) - points)).sum(1)

    for k in [0, 1, 2, 3, 4, 5, 6, 20, 58, 59, 80, 158]:
        step = np.zeros(FRAME + IDENTITY)
        step[k] = 1e-3 if k < 6 else 1e-2
        numeric = (residual(step) - residual(-step)) / (2 * step[k])
        assert np.allclose(rows[:, k], numeric, atol=1e-4 * max(1e-3, np.abs(numeric).max()) + 2e-6)


@pytest.mark.parametrize("width", [3.0, 10.0])
def test_the_robust_energy_has_the_gradient_it_says(width):
    random = np.random.default_rng(2)
    rows, residual = random.normal(size=(30, 4)), random.normal(0, 0.004, 30)
    sigma, trust = random.uniform(0.001, 0.002, 30), random.uniform(0.2, 1, 30)
    found, weight = energies.surface(rows.astype(np.float32), residual, sigma, trust, width)
    assert ((weight > 0) & (weight <= 1)).all()
    for k in range(4):
        step = 1e-6 * rows[:, k]
        high = energies.surface(rows, residual + step, sigma, trust, width)[0].value
        low = energies.surface(rows, residual - step, sigma, trust, width)[0].value
        assert np.isclose((high - low) / 2e-6, 2 * found.gradient[k], rtol=2e-3)


def test_priors_are_exact_quadratics(state):
    prior = energies.expression_prior(0.04)
    previous = np.clip(state.expression + 0.1, 0, 1)
    step = np.random.default_rng(3).normal(0, 0.02, FRAME)
    moved = FrameState(state.rotation, state.translation, state.expression + step[6:])
    for make in (
        lambda s: energies.expression(s, prior, FRAME),
        lambda s: energies.reg_expre_smo(s, previous, 0.35, FRAME),
    ):
        here, there = make(state), make(moved)
        predicted = here.value + 2 * here.gradient @ step + step @ here.hessian @ step
        assert np.isclose(there.value, predicted)
    assert energies.identity(np.full(IDENTITY, 2.0)).value == pytest.approx(400)


def test_steps_keep_weights_in_range_and_turn_about_the_head(state):
    low, high = bounds(state, identity=True)
    assert (low[6:59] == -state.expression).all() and np.isinf(low[59:]).all()
    step = np.concatenate([[0.2, -0.1, 0.3], np.zeros(3), np.full(53, 5.0)])
    moved = stepped(state, step)
    assert np.allclose(moved.center, state.center) and moved.expression.max() == 1
    once = stepped(state, np.concatenate([[0, 0.1, 0], [0.01, 0, 0], np.zeros(53)]))
    twice = extrapolated(once, state)
    assert np.allclose(twice.center - once.center, [0.01, 0, 0])
    assert np.isclose(so3.angle(twice.rotation @ once.rotation.T), 0.1)


def test_a_gaussian_prior_pulls_by_exactly_its_weight():
    """The denoiser of a standard Gaussian predicts v = 0; its pull, averaged over noise, is the code itself."""

    class Zero(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, t):
            return torch.zeros_like(x)

    normalization = LinearNormalization(np.zeros(5), np.eye(5))
    prior = CodePrior("expression", Zero(), cosine_schedule(), "v_prediction", normalization)
    pull = PriorPull(prior, torch.eye(5), (0.3, 0.6), draws=2000, seed=0)
    code = torch.tensor([0.5, -1.0, 0.2, 0.0, 1.5])
    assert np.allclose(pull.quadratic(code, 0).gradient, code.numpy(), atol=0.15)
    assert (np.linalg.eigvalsh(pull.hessian) >= 1).all()
