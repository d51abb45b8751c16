"""Smoothing over time of what a tracker stored per time step, as the published data code does (spec avatars 3.6)."""

from __future__ import annotations

import numpy as np


def smoothed(values: np.ndarray, width: int, gaussian: bool = False) -> np.ndarray:
    """[T, D] -> [T, D] of the same type.

    Args:
        width: the Gaussian's standard deviation, or how many neighbours on either side a mean takes in; 0 = as it is.
            Beyond the ends the mean takes the first (last) `width` rows again, in their own order.
    """
    if width == 0:
        return values
    if gaussian:
        from scipy.ndimage import gaussian_filter1d

        return gaussian_filter1d(values, sigma=width, axis=0, mode="nearest").astype(values.dtype)
    padded = np.concatenate([values[:width], values, values[-width:]]).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1, axis=0)
    return windows.mean(-1).astype(values.dtype)
