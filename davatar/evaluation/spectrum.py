"""Sharpness: spectral energy of a prediction beside the truth's, in two bands. Pictures in, ratios out.

Luminance of a centre square under a Hann window; 1 = as sharp as the truth, below = blurred, above =
noise or invented detail. PSNR rewards blur; this number shows it.
"""

from __future__ import annotations

import numpy as np

BANDS = {"sharpness_mid": (0.12, 0.25), "sharpness_high": (0.25, 0.5)}  # cycles per pixel


def luminance(image: np.ndarray) -> np.ndarray:
    """[..., H, W, 3] sRGB 0..1 -> [..., H, W]."""
    return image @ np.array([0.299, 0.587, 0.114], dtype=image.dtype)


def band_energy(image: np.ndarray, share: float = 0.75) -> dict[str, float]:
    """Energy of one picture in each band.

    Args:
        image: [H, W, 3] float, 0..1.
        share: side of the centre square relative to the shorter side (0.75 leaves out most background).
    """
    height, width = image.shape[:2]
    side = max(int(min(height, width) * share), 8)
    top, left = (height - side) // 2, (width - side) // 2
    crop = luminance(image[top : top + side, left : left + side].astype(np.float64))
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((crop - crop.mean()) * np.outer(window, window))) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    return {name: float(power[(frequency >= low) & (frequency < high)].sum()) for name, (low, high) in BANDS.items()}


def sharpness(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Energy of `prediction` / energy of `target` in each band; both [H, W, 3] float, 0..1."""
    mine, true = band_energy(prediction), band_energy(target)
    return {name: mine[name] / max(true[name], 1e-12) for name in BANDS}
