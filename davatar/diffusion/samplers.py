"""Samplers: from noise to a sample, along a path of noise levels, with any `denoise`.

A sampler knows neither networks nor heads: `denoise(noisy [B, ...], level)` returns what it believes
to be the clean sample and the noise. `as_denoiser` makes one from a network. Paths come from
`NoiseSchedule.path_of` or `continuous_path`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from davatar.diffusion.loss import Network
from davatar.diffusion.parameterization import Denoised, PredictionType, to_clean, to_noise
from davatar.diffusion.schedule import Level

Denoise = Callable[[Tensor, Level], Denoised]
Draw = Callable[[], Tensor]  # fresh unit noise, shaped like the samples


def as_denoiser(network: Network, prediction: PredictionType, clip: float | None = None) -> Denoise:
    """Give a network's output its meaning.

    Args:
        network: called with the noisy samples and their time, repeated for each item.
        clip: clean samples are clamped to [-clip, clip]. The noise is then derived from the clamped sample,
            except for an "epsilon" network, whose own output is kept (spec dphm 4.4, 8.2).
    """

    def denoise(noisy: Tensor, level: Level) -> Denoised:
        output = network(noisy, torch.full((len(noisy),), level.time, device=noisy.device))
        clean = to_clean(prediction, output, noisy, level.signal, level.noise)
        if clip is not None:
            clean = clean.clamp(-clip, clip)
        noise = output if prediction == "epsilon" else to_noise(clean, noisy, level.signal, level.noise)
        return Denoised(clean, noise)

    return denoise


def sample_ancestral(denoise: Denoise, start: Tensor, path: Sequence[Level], draw: Draw) -> Tensor:
    """DDPM: at each step draw from the posterior given the predicted clean sample.

    Args:
        start: [B, ...] samples at the first level of `path`.
    """
    noisy = start
    for here, after in pairwise(path):
        clean, _ = denoise(noisy, here)
        variance = here.noise**2
        kept = (here.signal / after.signal) ** 2  # of the signal's variance, from `after` to `here`
        mean = after.signal * (1 - kept) / variance * clean + math.sqrt(kept) * after.noise**2 / variance * noisy
        spread = math.sqrt((1 - kept) * after.noise**2 / variance)
        noisy = mean + spread * draw() if spread > 0 else mean
    return noisy


def sample_ddim(
    denoise: Denoise, start: Tensor, path: Sequence[Level], eta: float = 0.0, draw: Draw | None = None
) -> Tensor:
    """DDIM: deterministic for `eta` 0, as random as the ancestral sampler for 1 (which needs `draw`)."""
    noisy = start
    for here, after in pairwise(path):
        clean, noise = denoise(noisy, here)
        if after.noise == 0:
            return after.signal * clean
        spread = 0.0
        if eta:
            kept = (here.signal / after.signal) ** 2
            spread = eta * math.sqrt((1 - kept) * after.noise**2 / here.noise**2)
        noisy = after.signal * clean + math.sqrt(max(after.noise**2 - spread**2, 0.0)) * noise
        if spread:
            noisy = noisy + spread * draw()
    return noisy


def sample_dpm_solver(denoise: Denoise, start: Tensor, path: Sequence[Level]) -> Tensor:
    """DPM-Solver++ (2M): deterministic, second order in the half log signal-to-noise ratio; 15-25 steps suffice."""
    noisy, last, last_rise = start, None, None
    for here, after in pairwise(path):
        clean, _ = denoise(noisy, here)
        if after.noise == 0:
            return after.signal * clean
        rise = _log_snr(after) - _log_snr(here)
        best = clean if last is None else clean + (clean - last) * (rise / (2 * last_rise))
        noisy = after.noise / here.noise * noisy + after.signal * -math.expm1(-rise) * best
        last, last_rise = clean, rise
    return noisy


def sample_unipc(denoise: Denoise, start: Tensor, path: Sequence[Level]) -> Tensor:
    """UniPC of order 2 (variant "bh2"): predicts like DPM-Solver++ and corrects each step with the next clean sample.

    Deterministic; no more calls of `denoise` than steps (spec avatars 7.1). A path may start in pure noise
    (half log signal-to-noise ratio -inf): what would weigh the clean sample before it then weighs nothing.
    """
    noisy, before = start, start  # `before`: the corrected sample that the last prediction left from
    past: list[tuple[Tensor, Level]] = []  # the last two clean samples
    order = 0
    for k, (here, after) in enumerate(pairwise(path)):
        clean, _ = denoise(noisy, here)
        if past:
            noisy = _unipc_corrected(before, clean, here, past, order)
        order = min(2, len(path) - 1 - k, k + 1)
        before, noisy = noisy, _unipc_predicted(noisy, clean, here, after, past, order)
        past = [*past, (clean, here)][-2:]
    return noisy


def _unipc_predicted(
    noisy: Tensor, clean: Tensor, here: Level, after: Level, past: list[tuple[Tensor, Level]], order: int
) -> Tensor:
    rise = _log_snr(after) - _log_snr(here)
    gain = -math.expm1(-rise)
    found = after.noise / here.noise * noisy + after.signal * gain * clean
    if order == 2:
        earlier, level = past[-1]
        found = found + 0.5 * after.signal * gain * (earlier - clean) / ((_log_snr(level) - _log_snr(here)) / rise)
    return found


def _unipc_corrected(
    before: Tensor, clean: Tensor, here: Level, past: list[tuple[Tensor, Level]], order: int
) -> Tensor:
    """The sample at `here` again, now that `clean` is known there; `before` is the sample one level earlier."""
    last, level = past[-1]
    rise = _log_snr(here) - _log_snr(level)
    fall = math.expm1(-rise)
    base = here.noise / level.noise * before - here.signal * fall * last
    if order == 1:
        return base - 0.5 * here.signal * fall * (clean - last)
    earlier, earliest = past[-2]
    ratio = (_log_snr(earliest) - _log_snr(level)) / rise
    first = -fall / rise - 1
    moment = first / fall
    second = 2 * (-first / rise - 0.5) / fall
    slope = (second - moment) / (ratio - 1)
    return base - here.signal * fall * (slope * (earlier - last) / ratio + (moment - slope) * (clean - last))


def _log_snr(level: Level) -> float:
    if level.noise == 0:
        return math.inf
    return math.log(level.signal / level.noise) if level.signal > 0 else -math.inf
