"""How good a prior is: its samples and its denoising beside a fitted Gaussian's, on values training never saw.

Distances are between normalised values (unit variance per coefficient). Rows:

    data       fresh draws of the training population: what the best possible prior would show
    prior      samples of the prior
    gaussian   samples of the Gaussian with the training values' mean and covariance

Captured expressions come from one performance, so held-out stretches differ from the training ones: the row
"data" shows by how much, and `mmd_training` measures against fresh training draws instead.
For identities of the open head model the population is a Gaussian, so a prior can equal that row and
not beat it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from davatar.core.errors import UsageError
from davatar.core.settings import from_mapping
from davatar.diffusion.loss import Network
from davatar.diffusion.parameterization import PredictionType, add_noise, target
from davatar.diffusion.schedule import NoiseSchedule
from davatar.prior.code_prior import CodePrior
from davatar.prior.population import STATISTICS_DRAWS, Population, make_population
from davatar.prior.settings import PriorSettings

NEIGHBOURS = 5
NOISE_LEVELS = (0.02, 0.1, 0.3, 0.6)  # shares of the schedule: late, hardly noisy times first


@dataclass(frozen=True)
class SampleFigures:
    mmd: float  # squared kernel distance to the held-out values, unbiased; 0 for the same distribution
    mmd_training: float  # the same to fresh draws of the training population
    coverage: float  # share of held-out values with a sample nearer than their own fifth neighbour
    precision: float  # share of samples nearer to some held-out value than that one's fifth neighbour
    to_samples: float  # mean distance from a held-out value to the nearest sample, standard deviations per coefficient
    from_samples: float  # and the other way
    outside: float | None = None  # share of coefficients beyond -0.05 .. 1.05; expressions only
    active: float | None = None  # mean number of coefficients above 0.05; expressions only


def evaluate(prior: CodePrior, population: Population, n: int = 1000, steps: int = 50, seed: int = 0) -> dict:
    """Figures of samples and of denoising.

    Args:
        n: values per set.
        steps: sampling steps of the prior.

    Returns:
        "samples": row name -> `SampleFigures` as a dict; "loss": reference -> noise level -> {"prior", "gaussian"},
        mean squared error of the network's output (gaussian: of the exact denoiser of that Gaussian).
    """
    rng = np.random.default_rng([seed, 7])
    reference = population.normalised(population.held_out(n, rng))
    mean, covariance = gaussian_of(population, seed)
    codes = prior.sample(n, steps, seed)
    drawn = {
        "data": population.normalised(population.draw(n, rng)),
        "prior": prior.normalise(codes).numpy(),
        "gaussian": rng.multivariate_normal(mean, covariance, n, method="eigh").astype(np.float32),
    }
    fresh = population.normalised(population.draw(n, rng))
    weights_of = population if prior.kind == "expression" else None
    rows = {name: asdict(sample_figures(reference, fresh, drawn[name], weights_of)) for name in drawn}
    references = {"held-out": reference}
    if population.captured is not None:
        references["captured"] = population.normalised(population.captured)
    exact = gaussian_network(mean, covariance, prior.schedule, prior.prediction)
    losses = {}
    for name, values in references.items():
        ours = level_losses(prior.network, prior.schedule, prior.prediction, values, seed)
        theirs = level_losses(exact, prior.schedule, prior.prediction, values, seed)
        losses[name] = {level: {"prior": ours[level], "gaussian": theirs[level]} for level in ours}
    return {"samples": rows, "loss": losses}


def trained_population(prior: CodePrior) -> Population:
    """The population a prior's file says it was trained on.

    Raises:
        UsageError: it does not say (imported priors).
    """
    if "settings" not in prior.about:
        raise UsageError("this prior does not say what it was trained on, so there is nothing to judge it by")
    settings = from_mapping(PriorSettings, prior.about["settings"], "the prior's file")
    return make_population(prior.kind, settings.data, settings.seed, prior.normalization)


def gaussian_of(population: Population, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean [Lw] and covariance [Lw, Lw] of the normalised training values."""
    values = population.normalised(population.draw(STATISTICS_DRAWS, np.random.default_rng([seed, 8])))
    return values.mean(axis=0, dtype=np.float64), np.cov(values.astype(np.float64), rowvar=False)


def sample_figures(
    reference: np.ndarray, training: np.ndarray, samples: np.ndarray, expressions: Population | None = None
) -> SampleFigures:
    """
    Args:
        reference, training, samples: [n, K] normalised values: held out, fresh training draws, what is judged.
        expressions: gives the weights back; None where "outside" and "active" mean nothing.
    """
    between, within, among = cdist(reference, samples), cdist(reference, reference), cdist(samples, samples)
    radius = np.sort(within, axis=1)[:, NEIGHBOURS]  # its own zero is the first
    near = between < radius[:, None]
    outside = active = None
    if expressions is not None:
        weights = expressions.values(samples)
        outside = float(((weights < -0.05) | (weights > 1.05)).mean())
        active = float((weights > 0.05).sum(axis=1).mean())
    scale = np.sqrt(reference.shape[1])
    return SampleFigures(
        mmd=kernel_distance(between, within, among),
        mmd_training=kernel_distance(cdist(training, samples), cdist(training, training), among),
        coverage=float(near.any(axis=1).mean()),
        precision=float(near.any(axis=0).mean()),
        to_samples=float(between.min(axis=1).mean() / scale),
        from_samples=float(between.min(axis=0).mean() / scale),
        outside=outside,
        active=active,
    )


def kernel_distance(between: np.ndarray, one: np.ndarray, two: np.ndarray) -> float:
    """Squared maximum mean discrepancy from three distance matrices, unbiased; Gaussian kernels.

    Widths are a fifth to a half of the median distance: wider ones hardly see more than mean and covariance,
    which a fitted Gaussian has right by construction.
    """
    width = np.median(one[~np.eye(len(one), dtype=bool)])
    total = 0.0
    for factor in (0.2, 0.35, 0.5):
        k_between, k_one, k_two = (np.exp(-((d / (factor * width)) ** 2) / 2) for d in (between, one, two))
        n, m = len(one), len(two)
        total += (k_one.sum() - n) / (n * (n - 1)) + (k_two.sum() - m) / (m * (m - 1)) - 2 * k_between.mean()
    return float(total / 3)


@torch.no_grad()
def level_losses(
    network: Network, schedule: NoiseSchedule, prediction: PredictionType, values: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """Unweighted squared error of the network's output at fixed noise levels and with fixed noise.

    Args:
        values: [n, Lw] normalised.
    """
    clean = torch.as_tensor(values)[:, None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    out = {}
    for share in NOISE_LEVELS:
        time = int(share * len(schedule))
        t = torch.full((len(clean),), time)
        signal, scale = schedule.at(t, clean)
        output = network(add_noise(clean, noise, signal, scale), t)
        out[f"t{time}"] = float((output - target(prediction, clean, noise, signal, scale)).square().mean())
    return out


def gaussian_network(
    mean: np.ndarray, covariance: np.ndarray, schedule: NoiseSchedule, prediction: PredictionType
) -> Network:
    """The exact network of a Gaussian population: the best that any linear denoiser can do."""
    values, axes = np.linalg.eigh(covariance)
    values, axes, center = (torch.as_tensor(x, dtype=torch.float32) for x in (values.clip(0), axes, mean))

    def network(noisy: Tensor, t: Tensor) -> Tensor:
        signal, scale = schedule.at(t, noisy)
        gain = signal * values / (signal**2 * values + scale**2)
        clean = center + ((noisy - signal * center) @ axes * gain) @ axes.T
        return target(prediction, clean, (noisy - signal * clean) / scale, signal, scale)

    return network
