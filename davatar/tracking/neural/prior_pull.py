"""A diffusion prior as a quadratic that Gauss-Newton can add to its other energies.

The score of spec dphm 6.4 pulls a code towards what the denoiser makes of it. It is scaled so that the prior of
a standard Gaussian would pull exactly as |x|^2 does; so a weight of 1 means "as strong as a Gaussian prior".
The curvature is an upper bound (the denoised code is held), which makes the step a proximal one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from davatar.prior.code_prior import CodePrior
from davatar.tracking.energies import Quadratic


class PriorPull:
    """
    Args:
        basis: [L, J]: directions along which the code may move.
        levels: range of t/T.
        draws: noises averaged over, at levels spread over the range.
    """

    def __init__(self, prior: CodePrior, basis: Tensor, levels: tuple[float, float], draws: int, seed: int):
        self.prior, self.seed = prior, seed
        low, high = (int(level * prior.steps) for level in levels)
        self.times = torch.linspace(low, min(high, prior.steps - 1), draws).round().long()
        eye = torch.eye(prior.code_size, dtype=basis.dtype)
        with torch.no_grad():
            normalise = prior.normalise(eye) - prior.normalise(torch.zeros_like(eye))  # [L, Lw]
        through = normalise.T @ basis  # [Lw, J]
        signal, noise = (value.flatten().double() for value in prior.schedule.at(self.times, torch.zeros(draws, 1)))
        self.gaussian = float((noise**3 * signal).mean())
        self.curvature = float((noise * signal).mean()) / self.gaussian
        self.hessian = (through.T @ through).numpy().astype(np.float64) * self.curvature
        self.basis = basis

    def quadratic(self, code: Tensor, item: int) -> Quadratic:
        """Value, half gradient and half Hessian along the basis at one code [L]; noise depends on `item` only."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + item)
        size = self.prior.normalization.size
        codes = code.detach()[None].expand(len(self.times), -1).contiguous()
        value, gradient = self.prior.guidance(codes, self.times, mode="score", generator=generator)
        pull = (gradient.sum(0) * size / self.gaussian) @ self.basis
        return Quadratic(float(value) * size / self.gaussian, pull.numpy().astype(np.float64), self.hessian)
