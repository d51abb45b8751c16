"""Two sets of heads beside each other: coverage, minimum matching distance, kernel distance, nearest neighbours.

Everything is computed from distance matrices or from normalised values [n, K] (unit variance per
coefficient); what a distance means is said by who measures it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from davatar.prior.population import Population

NEIGHBOURS = 5
COPY = 0.05  # standard deviations per coefficient: nearer to a training value than this is a copy of it


@dataclass(frozen=True)
class MatchFigures:
    coverage: float  # share of held-out heads with a sample nearer than their own fifth neighbour
    matched: float  # share of held-out heads that are some sample's nearest
    matching: float  # minimum matching distance: mean from a held-out head to the nearest sample
    precision: float  # share of samples nearer to some held-out head than that one's fifth neighbour


@dataclass(frozen=True)
class CodeFigures(MatchFigures):
    kernel: float  # squared kernel distance (MMD) to the held-out values, unbiased; 0 for the same distribution
    kernel_training: float  # the same to fresh draws of the training population
    outside: float | None = None  # share of coefficients beyond -0.05 .. 1.05; expressions only
    active: float | None = None  # mean number of coefficients above 0.05; expressions only


@dataclass(frozen=True)
class NeighbourFigures:
    """Distance to the nearest of many training values; a prior that memorises lies far below "held-out"."""

    median: float
    low: float  # the nearest twentieth
    copies: float  # share nearer than `COPY`


def distances(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """[n, m] Euclidean distances of rows, by one matrix product."""
    one, two = one.astype(np.float64), two.astype(np.float64)
    squares = (one**2).sum(axis=1)[:, None] + (two**2).sum(axis=1) - 2 * one @ two.T
    return np.sqrt(squares.clip(0))


def match_figures(between: np.ndarray, within: np.ndarray) -> MatchFigures:
    """
    Args:
        between: [n, m] distances from held-out heads to samples.
        within: [n, n] among the held-out heads.
    """
    radius = np.sort(within, axis=1)[:, NEIGHBOURS]  # its own zero is the first
    near = between < radius[:, None]
    return MatchFigures(
        coverage=float(near.any(axis=1).mean()),
        matched=float(len(np.unique(between.argmin(axis=0))) / len(between)),
        matching=float(between.min(axis=1).mean()),
        precision=float(near.any(axis=0).mean()),
    )


def code_figures(
    reference: np.ndarray, training: np.ndarray, samples: np.ndarray, expressions: Population | None = None
) -> CodeFigures:
    """
    Args:
        reference, training, samples: [n, K] normalised values: held out, fresh training draws, what is judged.
        expressions: gives the weights back; None where "outside" and "active" mean nothing.
    """
    scale = np.sqrt(reference.shape[1])
    between, within, among = (
        distances(a, b) / scale for a, b in ((reference, samples), (reference, reference), (samples, samples))
    )
    outside = active = None
    if expressions is not None:
        weights = expressions.values(samples)
        outside = float(((weights < -0.05) | (weights > 1.05)).mean())
        active = float((weights > 0.05).sum(axis=1).mean())
    return CodeFigures(
        **asdict(match_figures(between, within)),
        kernel=kernel_distance(between, within, among),
        kernel_training=kernel_distance(
            distances(training, samples) / scale, distances(training, training) / scale, among
        ),
        outside=outside,
        active=active,
    )


def neighbour_figures(values: np.ndarray, training: np.ndarray) -> NeighbourFigures:
    """Distances from values [n, K] to their nearest training value, standard deviations per coefficient."""
    parts = np.array_split(values, max(1, len(values) // 200))  # bounds memory
    nearest = np.concatenate([distances(part, training).min(axis=1) for part in parts]) / np.sqrt(values.shape[1])
    return NeighbourFigures(
        median=float(np.median(nearest)), low=float(np.quantile(nearest, 0.05)), copies=float((nearest < COPY).mean())
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
