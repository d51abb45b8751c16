"""How good a prior is: its samples and its denoising beside a fitted Gaussian's, on values training never saw.

Rows:

    data       fresh draws of the training population: what the best possible prior would show
    prior      samples of the prior
    gaussian   samples of the Gaussian with the training values' mean and covariance

Code distances are between normalised values, in standard deviations per coefficient. Where codes stand
for morphable heads, meshes are compared vertex by vertex in mm; surfaces of the head model itself are
compared by chamfer distance, which is dear and therefore asked for. Captured expressions come from one
performance, so held-out stretches differ from the training ones: the row "data" shows by how much, and
`kernel_training` measures against fresh training draws instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from davatar.core.errors import UsageError
from davatar.core.progress import Progress, silent
from davatar.core.settings import from_mapping
from davatar.diffusion.loss import Network
from davatar.diffusion.parameterization import PredictionType, add_noise, target
from davatar.diffusion.schedule import NoiseSchedule
from davatar.headmodel.head_model import HeadModel
from davatar.prior.code_prior import CodePrior
from davatar.prior.gaussian import gaussian_network, gaussian_of
from davatar.prior.head_distance import MM_PER_METRE, chamfer_distances, surface_points, vertex_space
from davatar.prior.matching import NEIGHBOURS, code_figures, distances, match_figures, neighbour_figures
from davatar.prior.population import Population, make_population
from davatar.prior.settings import PriorSettings

NOISE_LEVELS = (0.02, 0.1, 0.3, 0.6)  # shares of the schedule: late, hardly noisy times first
TRAINING_DRAWS = 20000  # training values among which a sample's nearest is looked for
SURFACE_RESOLUTION = 48
SURFACE_POINTS = 1000


def evaluate(
    prior: CodePrior,
    population: Population,
    n: int = 1000,
    steps: int = 20,
    seed: int = 0,
    surfaces: int = 0,
    head: HeadModel | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Figures of samples and of denoising.

    Args:
        n: values per set.
        steps: sampling steps of the prior.
        surfaces: heads per set whose surfaces are compared too (seconds each); needs `head`.

    Returns:
        "codes", "meshes" (morphable populations), "surfaces" (if asked for) and "training_neighbours": row -> figures;
        "loss": reference -> noise level -> {"prior", "gaussian"}, mean squared error of the network's output
        (gaussian: of the exact denoiser of that Gaussian).

    Raises:
        UsageError: surfaces without a head model, or fewer than a handful of values.
    """
    if n <= NEIGHBOURS or 0 < surfaces <= NEIGHBOURS:
        raise UsageError(f"more than {NEIGHBOURS} values are needed per set", mend="ask for 20 or more")
    if surfaces and head is None:
        raise UsageError("surfaces were asked for without a head model", mend="name the head model")
    rng = np.random.default_rng([seed, 7])
    reference = population.normalised(population.held_out(n, rng))
    mean, covariance = gaussian_of(population, seed)
    drawn = {
        "data": population.normalised(population.draw(n, rng)),
        "prior": prior.normalise(prior.sample(n, steps, seed)).numpy(),
        "gaussian": rng.multivariate_normal(mean, covariance, n, method="eigh").astype(np.float32),
    }
    fresh = population.normalised(population.draw(n, rng))
    training = population.normalised(population.draw(TRAINING_DRAWS, rng))
    weights_of = population if prior.kind == "expression" else None
    out: dict[str, Any] = {
        "codes": {name: asdict(code_figures(reference, fresh, drawn[name], weights_of)) for name in drawn}
    }
    if population.morphable:
        out["meshes"] = _by_row(reference, drawn, _vertex_distances(prior, population))
    if surfaces:
        some = {name: values[:surfaces] for name, values in drawn.items()}
        out["surfaces"] = _by_row(reference[:surfaces], some, _Surfaces(prior, head, seed, progress))
    sets = {"held-out": reference} | drawn
    out["training_neighbours"] = {name: asdict(neighbour_figures(sets[name], training)) for name in sets}
    references = {"held-out": reference}
    if population.captured is not None:
        references["captured"] = population.normalised(population.captured)
    exact = gaussian_network(mean, covariance, prior.schedule, prior.prediction)
    out["loss"] = {}
    for name, values in references.items():
        ours = level_losses(prior.network, prior.schedule, prior.prediction, values, seed)
        theirs = level_losses(exact, prior.schedule, prior.prediction, values, seed)
        out["loss"][name] = {level: {"prior": ours[level], "gaussian": theirs[level]} for level in ours}
    return out


def trained_population(prior: CodePrior) -> Population:
    """The population a prior's file says it was trained on.

    Raises:
        UsageError: it does not say (imported priors).
    """
    if "settings" not in prior.about:
        raise UsageError("this prior does not say what it was trained on, so there is nothing to judge it by")
    settings = from_mapping(PriorSettings, prior.about["settings"], "the prior's file")
    return make_population(prior.kind, settings.data, settings.seed, prior.normalization)


Distances = Callable[[np.ndarray, np.ndarray], np.ndarray]  # normalised values [n, Lw], [m, Lw] -> [n, m]


def _by_row(reference: np.ndarray, drawn: dict[str, np.ndarray], between: Distances) -> dict[str, dict[str, float]]:
    within = between(reference, reference)
    return {name: asdict(match_figures(between(reference, values), within)) for name, values in drawn.items()}


def _vertex_distances(prior: CodePrior, population: Population) -> Distances:
    space = vertex_space(prior.kind)
    return lambda one, two: distances(population.values(one) @ space, population.values(two) @ space)


class _Surfaces:
    """Chamfer distances (mm) of the head model's own surfaces; each surface is made once."""

    def __init__(self, prior: CodePrior, head: HeadModel, seed: int, progress: Progress):
        self.prior, self.head, self.seed, self.progress = prior, head, seed, progress
        self.known: dict[bytes, np.ndarray] = {}

    def __call__(self, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return chamfer_distances(self.points(one), self.points(two))

    def points(self, values: np.ndarray) -> list[np.ndarray]:
        from davatar.prior.heads import SampledCodes, meshes

        new = [row for row in values if row.tobytes() not in self.known]
        if new:
            codes = self.prior.denormalise(torch.as_tensor(np.stack(new)))
            split = SampledCodes.of(self.prior.kind, codes, self.head)
            made = meshes(self.head, split, SURFACE_RESOLUTION, self.progress)
            for k, (row, mesh) in enumerate(zip(new, made, strict=True)):
                points = surface_points(mesh, SURFACE_POINTS, np.random.default_rng([self.seed, 13, k]))
                self.known[row.tobytes()] = MM_PER_METRE * points
        return [self.known[row.tobytes()] for row in values]


@torch.no_grad()
def level_losses(
    network: Network, schedule: NoiseSchedule, prediction: PredictionType, values: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """Unweighted squared error of the network's output at fixed noise levels and with fixed noise.

    Args:
        values: [n, Lw] normalised.
    """
    clean: Tensor = torch.as_tensor(values)[:, None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    out = {}
    for share in NOISE_LEVELS:
        time = int(share * len(schedule))
        t = torch.full((len(clean),), time)
        signal, scale = schedule.at(t, clean)
        output = network(add_noise(clean, noise, signal, scale), t)
        out[f"t{time}"] = float((output - target(prediction, clean, noise, signal, scale)).square().mean())
    return out
