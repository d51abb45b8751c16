"""From codes to what a prior's network sees, and back. Linear both ways.

Published priors scale every number of a code by the same two constants (`RangeNormalization`). The
open head model's codes are linear images of few coefficients, so its priors work on those, each
scaled to unit variance (`LinearNormalization`); what a code has outside that plane is handed back as
a remainder that a prior may pull to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from davatar.core.errors import DataError


class Normalization(Protocol):
    code_size: int  # L
    size: int  # Lw, what the network sees
    clip: float | None  # normalised codes of the population stay within ±clip; None: no bound
    about: str  # one phrase for people

    def normalise(self, codes: Tensor) -> Tensor:
        """[..., L] -> [..., Lw]; differentiable."""

    def denormalise(self, normalised: Tensor) -> Tensor:
        """[..., Lw] -> [..., L]; differentiable."""

    def remainder(self, codes: Tensor) -> Tensor | None:
        """[..., L] part of the codes that `normalise` drops, in units of what is normal there; None if nothing."""


@dataclass(frozen=True)
class RangeNormalization:
    """x = (z - low) / (high - low) * 2 - 1 with two scalars: the ends of the training code table (spec dphm 4.3)."""

    low: float
    high: float
    code_size: int
    clip = 1.0

    def __post_init__(self):
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            found = f"normalisation range {self.low:g} to {self.high:g} is empty"
            raise DataError(found, mend="read it from the code table")

    @property
    def size(self) -> int:
        return self.code_size

    @property
    def about(self) -> str:
        return f"every number from {self.low:.4g}..{self.high:.4g} to -1..1"

    def normalise(self, codes: Tensor) -> Tensor:
        return (codes - self.low) / (self.high - self.low) * 2 - 1

    def denormalise(self, normalised: Tensor) -> Tensor:
        return (normalised + 1) / 2 * (self.high - self.low) + self.low

    def remainder(self, codes: Tensor) -> None:
        return None

    def arrays(self) -> dict[str, np.ndarray]:
        return {"low": np.float32([self.low]), "high": np.float32([self.high])}


@dataclass(frozen=True)
class LinearNormalization:
    """codes = mean + normalised @ from_whitened; back by least squares."""

    mean: np.ndarray  # [L] float32, the code of the mean coefficients
    from_whitened: np.ndarray  # [Lw, L] float32, the code's change per standard deviation of each coefficient
    spread: np.ndarray | None = None  # [Lw] float32; where given, float16 holds from_whitened / spread exactly
    clip = None

    def __post_init__(self):
        for name in ("mean", "from_whitened"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), np.float32))
        rows = self.from_whitened
        if rows.ndim != 2 or self.mean.shape != rows.shape[1:] or len(rows) > rows.shape[1]:
            raise DataError(f"code transform {list(rows.shape)} does not fit a mean of shape {list(self.mean.shape)}")
        if not (np.isfinite(rows).all() and np.isfinite(self.mean).all()):
            raise DataError("code transform holds values that are not finite")

    @cached_property
    def to_whitened(self) -> np.ndarray:
        """[L, Lw] least-squares inverse of `from_whitened`."""
        return np.linalg.pinv(self.from_whitened.astype(np.float64), rcond=1e-7).astype(np.float32)

    @cached_property
    def _spread(self) -> float:
        """Standard deviation of a number of the code, root mean square over the code."""
        return float(np.sqrt((self.from_whitened.astype(np.float64) ** 2).sum() / self.code_size))

    @classmethod
    def from_coefficients(
        cls, code_of: np.ndarray, offset: np.ndarray, mean: np.ndarray, spread: np.ndarray
    ) -> LinearNormalization:
        """For codes that are `offset + coefficients @ code_of`.

        Args:
            code_of: [K, L] code per unit of each coefficient.
            offset: [L] code at zero coefficients.
            mean, spread: [K] of the coefficients over the population.
        """
        code_of, spread = code_of.astype(np.float32), spread.astype(np.float32)
        exact = np.array_equal(code_of.astype(np.float16), code_of)
        return cls(offset + mean @ code_of, spread[:, None] * code_of, spread if exact else None)

    @classmethod
    def joined(cls, one: LinearNormalization, two: LinearNormalization) -> LinearNormalization:
        """For codes that are both codes, one after the other."""
        rows = np.zeros((one.size + two.size, one.code_size + two.code_size), np.float32)
        rows[: one.size, : one.code_size] = one.from_whitened
        rows[one.size :, one.code_size :] = two.from_whitened
        known = one.spread is not None and two.spread is not None
        spread = np.concatenate([one.spread, two.spread]) if known else None
        return cls(np.concatenate([one.mean, two.mean]), rows, spread)

    @property
    def code_size(self) -> int:
        return self.from_whitened.shape[1]

    @property
    def size(self) -> int:
        return self.from_whitened.shape[0]

    @property
    def about(self) -> str:
        return f"{self.size} coefficients of unit variance, a linear image of which is the code"

    def normalise(self, codes: Tensor) -> Tensor:
        return (codes - self._like(self.mean, codes)) @ self._like(self.to_whitened, codes)

    def denormalise(self, normalised: Tensor) -> Tensor:
        return self._like(self.mean, normalised) + normalised @ self._like(self.from_whitened, normalised)

    def remainder(self, codes: Tensor) -> Tensor | None:
        """In tenths of the codes' own standard deviation (root mean square over the code)."""
        if self.size == self.code_size:
            return None
        return (codes - self.denormalise(self.normalise(codes))) / (0.1 * self._spread)

    def arrays(self) -> dict[str, np.ndarray]:
        if self.spread is None:
            return {"mean": self.mean, "from_whitened": self.from_whitened}
        code_of = (self.from_whitened / self.spread[:, None]).astype(np.float16)  # half the file, no digit lost
        return {"mean": self.mean, "from_coefficients": code_of, "spread": self.spread}

    @staticmethod
    def _like(array: np.ndarray, other: Tensor) -> Tensor:
        return torch.as_tensor(array).to(other)


def normalization_from_arrays(arrays: dict[str, np.ndarray], code_size: int) -> Normalization:
    """What `arrays()` gave.

    Raises:
        DataError: neither kind of normalisation is in `arrays`.
    """
    if {"low", "high"} <= arrays.keys():
        return RangeNormalization(float(arrays["low"][0]), float(arrays["high"][0]), code_size)
    if {"mean", "from_whitened"} <= arrays.keys():
        return LinearNormalization(arrays["mean"], arrays["from_whitened"])
    if {"mean", "from_coefficients", "spread"} <= arrays.keys():
        spread = arrays["spread"].astype(np.float32)
        return LinearNormalization(
            arrays["mean"], spread[:, None] * arrays["from_coefficients"].astype(np.float32), spread
        )
    raise DataError(f"holds no normalisation, only {sorted(arrays)}", mend="train or import the prior again")
