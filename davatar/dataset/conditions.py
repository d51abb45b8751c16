"""Rendered conditions as the published denoiser wants them: normalised, cropped, resized, channels first.

Spec diffusion-avatars 3.3: normalising comes before resizing, so silhouettes blend object and background values.
"""

from __future__ import annotations

import numpy as np

from davatar.dataset.crop import Crop, crop_and_resize

NAMES = ("depths", "uv", "normals", "uv_ambient")  # the published order


def condition(values: np.ndarray, name: str, crop: Crop | None, size: int, *, smooth: bool = True) -> np.ndarray:
    """One decoded channel [H, W(, C)] -> [C, size, size] float32 in -1..1 (bool for `mask`, nearest pixel)."""
    if name == "depths":
        values = values[..., None] - 1
    elif name in ("uv", "uv_ambient"):
        values = values * 2 - 1
    resized = crop_and_resize(values, crop, size, smooth=smooth)
    if resized.ndim == 2:
        resized = resized[..., None]
    return np.moveaxis(resized, -1, 0)
