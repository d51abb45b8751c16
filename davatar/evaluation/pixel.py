"""PSNR, SSIM, multi-scale SSIM and MSE: the metrics that need no network (spec diffusion-avatars 9.4).

[N, 3, H, W] float 0..1 in, one number out; the value of a batch is the published one (PSNR of the
batch's MSE, mean SSIM of its images). With a mask, errors and SSIM maps are averaged over what it
covers. The published *masked* values are another thing: the whole picture after `on_white`.
"""

from __future__ import annotations

import math

import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from davatar.core.errors import DataError

CEILING_DB = 100.0  # PSNR of equal pictures; JSON has no infinity
MS_SSIM_SIDE = 161  # torchmetrics: 11-pixel window after four halvings


def on_white(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Keep what the mask [N, H, W] 0..1 covers, white elsewhere; rounded to 8 bits like the published files."""
    alpha = mask[:, None].to(images)
    return ((alpha * images + 1 - alpha) * 255).round() / 255


def _mean_over(values: torch.Tensor, mask: torch.Tensor | None) -> float:
    """Mean of [N, 3, H, W] over the mask [N, H, W].

    Raises:
        DataError: the mask covers nothing.
    """
    if mask is None:
        return values.mean().item()
    weight = mask.to(values)
    total = weight.sum().item()
    if total <= 0:
        raise DataError("the mask is empty in every picture")
    return (values.mean(1) * weight).sum().item() / total


class Mse:
    name, higher_is_better = "mse", False
    pooled = True  # over a clip: the mean over its frames, also where others are averaged by batches

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> float:
        return _mean_over((prediction - target) ** 2, mask)


class Psnr:
    name, higher_is_better = "psnr", True

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> float:
        if mask is None:
            return min(peak_signal_noise_ratio(prediction, target, data_range=1.0).item(), CEILING_DB)
        error = Mse()(prediction, target, mask)
        return min(-10 * math.log10(error), CEILING_DB) if error > 0 else CEILING_DB


class Ssim:
    name, higher_is_better = "ssim", True

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> float:
        _, full = structural_similarity_index_measure(prediction, target, data_range=1.0, return_full_image=True)
        return _mean_over(full, mask)


class MsSsim:
    """Needs both sides above 160 pixels; with a mask, everything outside is set to white in both pictures."""

    name, higher_is_better = "multi_scale_ssim", True

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> float:
        height, width = target.shape[-2:]
        if min(height, width) < MS_SSIM_SIDE:
            raise DataError(f"needs pictures of at least {MS_SSIM_SIDE} pixels a side, these are {width}x{height}")
        if mask is not None:
            prediction, target = on_white(prediction, mask), on_white(target, mask)
        return multiscale_structural_similarity_index_measure(
            prediction, target, data_range=1.0, normalize="relu"
        ).item()
