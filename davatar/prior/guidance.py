"""The prior's pull on codes that are being fitted: a value and its gradient (spec dphm 6.4).

Codes are normalised, noised to one time, denoised, and judged:

    "denoise"  weight(t) * mean (output - target)²; the gradient flows through network and target
    "score"    mean ½ d², d = grad_scale (1 - ᾱ) (predicted noise - noise), clean sample clamped to its range;
               d is taken as a constant: its own pull on the noisy sample is the gradient, none through the network

Networks may see only a plane of the code space (`prior.normalization`). Off the plane a narrow Gaussian
takes the network's place; its value and gradient are exact expectations, without noise.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from davatar.core.errors import DataError, UsageError
from davatar.diffusion.loss import Network, training_loss
from davatar.diffusion.parameterization import PredictionType, add_noise, to_clean, to_noise
from davatar.diffusion.schedule import NoiseSchedule
from davatar.prior.normalization import Normalization

Mode = Literal["denoise", "score"]


def guidance(
    network: Network,
    schedule: NoiseSchedule,
    prediction: PredictionType,
    normalization: Normalization,
    codes: Tensor,
    t: Tensor,
    noise: Tensor,
    mode: Mode = "denoise",
    grad_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """
    Args:
        network: ([B, 1, Lw], [B]) -> [B, 1, Lw].
        codes: [B, L] un-normalised codes.
        t: [B] int time indices.
        noise: [B, Lw] unit noise, on normalised codes.
        grad_scale: only for "score": the gradient grows with it, the value with its square.

    Returns:
        value: scalar, averaged over the batch.
        gradient: [B, L], of the value with respect to `codes`; so each row holds its code's pull divided by B.
    """
    leaf = codes.detach().requires_grad_(True)
    if mode == "denoise":
        value = _denoise_value(network, schedule, prediction, normalization, leaf, t, noise)
        surrogate = value
    elif mode == "score":
        value, surrogate = _score_value(network, schedule, prediction, normalization, leaf, t, noise, grad_scale)
    else:
        raise UsageError(f"guidance mode {mode!r}, expected denoise or score")
    (gradient,) = torch.autograd.grad(surrogate, leaf)
    if not torch.isfinite(gradient).all():
        raise DataError("the prior's gradient is not finite", mend="the codes left the range the prior was trained on")
    return value.detach(), gradient


def _denoise_value(network, schedule, prediction, normalization, codes, t, noise) -> Tensor:
    clean = normalization.normalise(codes)[:, None]
    value = training_loss(network, schedule, prediction, clean, t, noise[:, None])
    remainder = normalization.remainder(codes)
    if remainder is None:
        return value
    signal, noise_scale = schedule.at(t, codes)
    return value + (signal * noise_scale * remainder).square().sum() / clean.numel()


def _score_value(network, schedule, prediction, normalization, codes, t, noise, grad_scale) -> tuple[Tensor, Tensor]:
    clean, noise = normalization.normalise(codes)[:, None], noise[:, None]
    signal, noise_scale = schedule.at(t, clean)
    with torch.no_grad():
        noisy = add_noise(clean, noise, signal, noise_scale)
        found = to_clean(prediction, network(noisy, t), noisy, signal, noise_scale)
        if normalization.clip is not None:
            found = found.clamp(-normalization.clip, normalization.clip)
        pull = grad_scale * noise_scale**2 * (to_noise(found, noisy, signal, noise_scale) - noise)
        pull = torch.nan_to_num(pull)
    value, surrogate = 0.5 * pull.square().mean(), (pull * clean).mean()
    remainder = normalization.remainder(codes)
    if remainder is not None:
        off = grad_scale * noise_scale[:, 0] ** 3 * signal[:, 0] * remainder.detach()
        value = value + 0.5 * off.square().sum() / clean.numel()
        surrogate = surrogate + (off * remainder).sum() / clean.numel()
    return value, surrogate
