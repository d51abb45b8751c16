"""Mean and covariance of captured expressions: the Gaussian that the linear tracker leans on.

Weights 0..1 of the 53 open expression shapes, frames of the test recordings left out
(`prior.mocap`). It is also the opponent that a learnt expression prior has to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from davatar.prior.mocap import load_mocap


@dataclass(frozen=True)
class ExpressionStatistics:
    mean: np.ndarray  # [53] float64
    covariance: np.ndarray  # [53, 53] float64, semi-definite: add a floor before inverting
    names: tuple[str, ...]  # 53 shape names, the order of the open morphable model
    frames: int  # how many frames they were computed from


@lru_cache(maxsize=1)
def expression_statistics() -> ExpressionStatistics:
    """Statistics of every usable frame of the motion that ships with davatar (milliseconds; shared afterwards)."""
    motion = load_mocap()
    weights = motion.weights[motion.usable()].astype(np.float64)
    return ExpressionStatistics(weights.mean(axis=0), np.cov(weights, rowvar=False), motion.names, len(weights))
