"""What a time-of-flight depth camera makes of a view: noise, flying pixels, holes, millimetre steps.

The error has a fixed part (a smooth pattern of the camera), a part that changes from frame to frame (white and
slightly correlated between neighbours, growing with distance, grazing angle and dark surfaces), mixed pixels
at edges, and losses. Metres; depth along the camera's z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, zoom

from davatar.capture.synthetic.noise import smoothstep
from davatar.capture.synthetic.view import LABEL_HAIR, View
from davatar.core.errors import DataError


@dataclass(frozen=True)
class SensorNoise:
    scale: float = 1.0  # multiplies every random error; 0 = a perfect sensor that only rounds
    sigma: float = 0.0009  # m, axial noise on bright skin that faces the camera at 0.6 m
    correlated: float = 0.6  # share of the noise's standard deviation that neighbours have in common
    pattern: float = 0.0005  # m, fixed offset pattern of the camera
    hair_loss: float = 0.4  # share of the pixels on black hair that return nothing
    speckle_loss: float = 0.004  # share of single pixels that return nothing anywhere
    step: float = 0.001  # m, rounding

    def __post_init__(self):
        for name in ("scale", "sigma", "correlated", "pattern", "hair_loss", "speckle_loss"):
            if not 0 <= getattr(self, name) < np.inf:
                raise DataError(f"sensor noise: {name} is {getattr(self, name)}, expected 0 or more")
        if not 0 < self.step < np.inf:
            raise DataError(f"sensor noise: step is {self.step}, expected more than 0")


def fixed_pattern(noise: SensorNoise, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """[H, W] m, the same in every frame of a recording."""
    height, width = size
    coarse = rng.standard_normal((9, 10))
    smooth = zoom(coarse, (height / 9, width / 10), order=3, grid_mode=True, mode="nearest")
    return (noise.scale * noise.pattern * smooth / coarse.std()).astype(np.float32)


def measure(view: View, noise: SensorNoise, pattern: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[H, W] uint16 in units of `noise.step`, 0 = no measurement.

    Args:
        pattern: [H, W] m from `fixed_pattern`.
        rng: fresh for every frame, so that a frame does not depend on which were recorded before.
    """
    if noise.scale == 0:
        return _rounded(view.depth, noise)
    depth, shape = view.returned, view.depth.shape
    facing, brightness = np.maximum(view.facing, 0.08), np.maximum(view.brightness, 0.02)
    sigma = noise.sigma * np.square(np.nan_to_num(depth, nan=0.6) / 0.6)
    sigma = sigma * np.minimum(facing**-0.8, 5) * np.clip(np.sqrt(0.3 / brightness), 0.8, 3)
    white, blurred = rng.standard_normal(shape), gaussian_filter(rng.standard_normal(shape), 1.2)
    common = noise.correlated
    error = np.sqrt(max(1 - common**2, 0)) * white + common * blurred / 0.235  # 0.235 = std of the blurred field
    out = depth + pattern + noise.scale * sigma * error

    draw = rng.random((3, *shape))
    lost = draw[0] < noise.speckle_loss * noise.scale
    lost |= view.share < 0.35
    lost |= draw[1] < smoothstep(0.28, 0.08, facing) * (view.facing > 0)
    lost |= (view.spread > 0.004) & (draw[1] < 0.55)  # most mixed pixels are noticed, the others fly
    dark = smoothstep(0.14, 0.02, brightness) * (view.label == LABEL_HAIR)
    clumps = gaussian_filter(rng.standard_normal(shape), 2.0) / 0.141  # hair is lost in clumps, not in single pixels
    lost |= 0.7 * clumps + 0.7 * (draw[2] - 0.5) * 3.46 < _quantile(noise.hair_loss * dark)
    lost |= _blobs(shape, rng, count=rng.poisson(1.5 * noise.scale))
    return _rounded(np.where(lost, np.nan, out), noise)


def _quantile(share: np.ndarray) -> np.ndarray:
    """Threshold under which about `share` of a unit normal variable lies (logistic approximation); -9 for 0."""
    share = np.clip(share, 1e-7, 1 - 1e-7)
    return np.where(share <= 1e-6, -9, np.log(share / (1 - share)) / 1.702)


def _blobs(shape: tuple[int, int], rng: np.random.Generator, count: int) -> np.ndarray:
    """[H, W] bool: small round holes anywhere."""
    out = np.zeros(shape, bool)
    for _ in range(count):
        seed = np.zeros(shape, bool)
        seed[rng.integers(shape[0]), rng.integers(shape[1])] = True
        out |= binary_dilation(seed, iterations=int(rng.integers(1, 4)))
    return out


def _rounded(depth: np.ndarray, noise: SensorNoise) -> np.ndarray:
    steps = np.rint(np.nan_to_num(depth, nan=0) / noise.step)
    return np.clip(steps, 0, 65535).astype(np.uint16)
