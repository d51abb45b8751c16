"""Codes of a surface: Gauss-Newton from the mean neutral head, for head models with morphable coefficients.

Unknowns are 100 identity coefficients and 53 expression weights. A residual is a point's distance to
the predicted surface in mm (the field over its steepness). A strong prior and a wide robust kernel at
first, so that mouth and lids do not settle in a wrong pose, both loosened step by step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from davatar.geometry.bounded_step import bounded_step
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_surface import MM

CHUNK = 256  # points per pass: each carries its own copy of the coefficients
FLATTEST = 0.3  # steepness below which a field is taken as no flatter
FARTHEST_STEP = 1.5  # standard deviations an identity coefficient may change at once
EXPRESSION_DEVIATION = 0.2  # of an expression weight over random expressions


@dataclass(frozen=True)
class Annealing:
    """A value that falls geometrically from `first` and stays at `last`."""

    first: float
    last: float
    factor: float

    def at(self, step: int) -> float:
        return max(self.last, self.first * self.factor**step)


IDENTITY_PRIOR = Annealing(0.15, 0.02, 0.75)  # mm per standard deviation
EXPRESSION_PRIOR = Annealing(0.2, 0.025, 0.75)
KERNEL = Annealing(20.0, 2.0, 0.7)  # mm, width of the robust kernel


def surface_rows(
    model: HeadModel, points: np.ndarray, normals: np.ndarray, identity: np.ndarray, expression: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linearise the distances of points to the predicted surface.

    Args:
        points, normals: [N, 3] head-model units.
        identity, expression: [100], [53] coefficients.

    Returns:
        residual [N] mm; rows [N, 153] mm per unit of coefficient; agreement [N], cosine between `normals` and the
        field's gradient.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for x, n in zip(
        torch.from_numpy(points.astype(np.float32)).split(CHUNK),
        torch.from_numpy(normals.astype(np.float32)).split(CHUNK),
        strict=True,
    ):
        x = x[:, None].requires_grad_()
        who, what = (
            torch.from_numpy(np.repeat(c[None].astype(np.float32), len(x), axis=0)).requires_grad_()
            for c in (identity, expression)
        )
        value = model.sdf(x, *model.codes(who, what))[:, 0]
        by_point, by_who, by_what = torch.autograd.grad(value.sum(), (x, who, what))
        norm = by_point[:, 0].norm(dim=-1).clamp_min(FLATTEST)
        to_mm = 1 / (MM * norm)
        rows = to_mm[:, None] * torch.cat([by_who, by_what], dim=1)
        parts.append((value.detach() * to_mm, rows, (by_point[:, 0] * n).sum(-1) / norm))
    residual, rows, agreement = (torch.cat(column).numpy().astype(np.float64) for column in zip(*parts, strict=True))
    return residual, rows, agreement


def fit_coefficients(
    model: HeadModel, points: np.ndarray, normals: np.ndarray, steps: int = 15
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients whose surface passes through points of a whole head.

    Args:
        points, normals: [N, 3] of the surface, head-model units; two thousand do.

    Returns:
        identity [100] standard deviations, expression [53] weights in 0..1.

    Raises:
        DataError: the head model has no morphable coefficients.
    """
    identity, expression = np.zeros(100), np.zeros(53)
    for step in range(steps):
        residual, rows, agreement = surface_rows(model, points, normals, identity, expression)
        width = KERNEL.at(step)
        weight = (agreement > 0) / (1 + (residual / width) ** 2) ** 2
        weight /= max(len(points), 1)
        stiff = np.concatenate(
            [
                np.full(100, IDENTITY_PRIOR.at(step) ** 2),
                np.full(53, (EXPRESSION_PRIOR.at(step) / EXPRESSION_DEVIATION) ** 2),
            ]
        )
        weighted = rows * weight[:, None]
        gradient = weighted.T @ residual + stiff * np.concatenate([identity, expression])
        low = np.concatenate([np.full(100, -FARTHEST_STEP), -expression])
        high = np.concatenate([np.full(100, FARTHEST_STEP), 1 - expression])
        change, _ = bounded_step(weighted.T @ rows + np.diag(stiff), gradient, low, high)
        identity, expression = identity + change[:100], np.clip(expression + change[100:], 0, 1)
    return identity, expression
