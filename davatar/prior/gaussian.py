"""The opponent every prior is measured against: a Gaussian with the training values' mean and covariance.

Its exact denoiser is the best that any linear one can do, so a learnt prior that does not beat it has
learnt nothing beyond second moments. Values are normalised.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from davatar.diffusion.loss import Network
from davatar.diffusion.parameterization import PredictionType, target
from davatar.diffusion.schedule import NoiseSchedule
from davatar.prior.population import STATISTICS_DRAWS, Population


def gaussian_of(population: Population, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean [Lw] and covariance [Lw, Lw] of the normalised training values."""
    values = population.normalised(population.draw(STATISTICS_DRAWS, np.random.default_rng([seed, 8])))
    return values.mean(axis=0, dtype=np.float64), np.cov(values.astype(np.float64), rowvar=False)


def gaussian_network(
    mean: np.ndarray, covariance: np.ndarray, schedule: NoiseSchedule, prediction: PredictionType
) -> Network:
    """The exact network of a Gaussian population."""
    values, axes = np.linalg.eigh(covariance)
    values, axes, center = (torch.as_tensor(x, dtype=torch.float32) for x in (values.clip(0), axes, mean))

    def network(noisy: Tensor, t: Tensor) -> Tensor:
        signal, scale = schedule.at(t, noisy)
        gain = signal * values / (signal**2 * values + scale**2)
        clean = center + ((noisy - signal * center) @ axes * gain) @ axes.T
        return target(prediction, clean, (noisy - signal * clean) / scale, signal, scale)

    return network
