"""Floats to PNG codes and back, as the published renderings store them (spec diffusion-avatars 4.4).

Code 0 is kept for background pixels, those whose channels all equal the mask value; numbers use the other codes.
Arrays in, arrays out; no files. The float32 order of operations is the published one: codes must be equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from davatar.core.errors import DataError

CANONICAL_MIN = np.array([-1, -1, -1.5, -0.2, -0.2], np.float32)  # head-model units; x, y, z, ambient 0, ambient 1
CANONICAL_MAX = np.array([1, 1, 0.5, 0.2, 0.2], np.float32)


@dataclass(frozen=True)
class Quantiser:
    low: float | tuple[float, ...]  # scalar, or one value per channel
    high: float | tuple[float, ...]
    bits: int
    mask: float | None = 0.0  # value that marks background; None = every pixel holds a number

    @property
    def _reserved(self) -> int:
        return 0 if self.mask is None else 1

    @property
    def _steps(self) -> np.ndarray:
        return (2**self.bits - 1 - self._reserved) / (np.float32(self.high) - np.float32(self.low))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Float [..., C] -> uint8 or uint16 of the same shape; where all share one range, [H, W] is one channel.

        Values below `low` get the lowest code.

        Raises:
            DataError: a value above `high`, or a non-finite one.
        """
        values = np.asarray(values, np.float32)
        codes = np.maximum(0, values - np.float32(self.low)) * self._steps + self._reserved
        if not (np.isfinite(codes).all() and codes.max(initial=0) < 2**self.bits):
            worst = float(np.nanmax(values))
            raise DataError(f"values reach {worst:g}, the {self.bits}-bit range ends at {self.high}")
        codes = np.round(codes).astype(np.uint8 if self.bits == 8 else np.uint16)
        if self.mask is not None:
            codes[self._background(values)] = 0
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The way back, float32; background becomes the mask value in every channel."""
        steps = self._steps.astype(np.float32)
        values = codes.astype(np.float32) / steps - (self._reserved / steps - np.float32(self.low))
        if self.mask is not None:
            values[self._background(codes)] = self.mask
        return values.astype(np.float32)

    def _background(self, values: np.ndarray) -> np.ndarray:
        is_mask = values == self.mask
        return is_mask if values.ndim == 2 and np.isscalar(self.low) else is_mask.all(axis=-1)


@dataclass(frozen=True)
class NormalQuantiser:
    """Unit vectors as (radius, polar angle from +z, azimuth), one byte each."""

    low: tuple[float, float, float] = (0.0, 0.0, -np.pi)
    high: tuple[float, float, float] = (1.0, np.pi, np.pi)

    @property
    def _codes(self) -> Quantiser:
        return Quantiser(self.low, self.high, 8)

    def encode(self, normals: np.ndarray) -> np.ndarray:
        """[..., 3] float, zeros = background -> [..., 3] uint8."""
        x, y, z = np.moveaxis(np.asarray(normals, np.float32), -1, 0)
        planar = np.sqrt(x**2 + y**2)
        # A unit vector may be a rounding error longer than 1, which the range would refuse.
        radius = np.minimum(np.sqrt(planar**2 + z**2), np.float32(self.high[0]))
        spherical = np.stack([radius, np.arctan2(planar, z), np.arctan2(y, x)], axis=-1)
        return self._codes.encode(spherical)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """[..., 3] uint8 -> [..., 3] float32, zeros = background."""
        radius, polar, azimuth = np.moveaxis(self._codes.decode(codes), -1, 0)
        planar = radius * np.sin(polar)
        normals = np.stack([planar * np.cos(azimuth), planar * np.sin(azimuth), radius * np.cos(polar)], axis=-1)
        normals[(codes == 0).all(axis=-1)] = 0
        return normals


@dataclass(frozen=True)
class DepthQuantiser:
    """Clip-space depth, 0..2; what lies beyond 2 is background."""

    def encode(self, depth: np.ndarray) -> np.ndarray:
        return Quantiser(0.0, 2.0, 16).encode(np.where(depth > 2, np.float32(0), depth))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return Quantiser(0.0, 2.0, 16).decode(codes)


UV16 = Quantiser(0.0, 1.0, 16)
UV8 = Quantiser(0.0, 1.0, 8)
NORMALS = NormalQuantiser()
RAW_NORMALS = NormalQuantiser(low=(0.0, np.pi / 3, -np.pi))
DEPTH = DepthQuantiser()
CANONICAL = Quantiser(tuple(CANONICAL_MIN.tolist()), tuple(CANONICAL_MAX.tolist()), 16, mask=None)


def clip_depth(depth: np.ndarray) -> np.ndarray:
    """Camera depth m -> the clip-space z that the published `depths` hold (near 0.1 m, far 2 m)."""
    return (2.1 * depth - 0.4) / 1.9


def camera_depth(clip: np.ndarray) -> np.ndarray:
    """Clip-space z -> camera depth m."""
    return (1.9 * clip + 0.4) / 2.1


def normalise_canonical(canonical: np.ndarray) -> np.ndarray:
    """Head-model units [..., 3 or 5] -> share of the box [..., same], 0..1 inside."""
    n = canonical.shape[-1]
    return (canonical - CANONICAL_MIN[:n]) / (CANONICAL_MAX[:n] - CANONICAL_MIN[:n])


def denormalise_canonical(share: np.ndarray, first: int = 0) -> np.ndarray:
    """The way back; `first` = 3 for the two ambient coordinates."""
    low, high = (bound[first : first + share.shape[-1]] for bound in (CANONICAL_MIN, CANONICAL_MAX))
    return share * (high - low) + low
