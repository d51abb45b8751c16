"""What a network's output means, and how it turns into the clean sample or the noise.

    noisy = signal * clean + noise_scale * epsilon
    v     = signal * epsilon - noise_scale * clean

Prediction types are named as in diffusers: "epsilon", "v_prediction", "sample" (the clean sample).
Everything here is elementwise; `signal` and `noise_scale` broadcast against the samples.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from davatar.core.errors import ConfigError
from davatar.diffusion.schedule import NoiseSchedule

PredictionType = Literal["epsilon", "v_prediction", "sample"]


class Denoised(NamedTuple):
    clean: Tensor  # [B, ...] the sample without its noise
    noise: Tensor  # [B, ...] the unit noise that was in it


def add_noise(clean: Tensor, noise: Tensor, signal: Tensor | float, noise_scale: Tensor | float) -> Tensor:
    return signal * clean + noise_scale * noise


def target(
    prediction: PredictionType, clean: Tensor, noise: Tensor, signal: Tensor | float, noise_scale: Tensor | float
) -> Tensor:
    """What the network should have put out."""
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return clean
    if prediction == "v_prediction":
        return signal * noise - noise_scale * clean
    raise _unknown(prediction)


def to_clean(
    prediction: PredictionType, output: Tensor, noisy: Tensor, signal: Tensor | float, noise_scale: Tensor | float
) -> Tensor:
    """The clean sample that an output claims; an "epsilon" network cannot tell it where `signal` is 0."""
    if prediction == "epsilon":
        return (noisy - noise_scale * output) / signal
    if prediction == "sample":
        return output
    if prediction == "v_prediction":
        return signal * noisy - noise_scale * output
    raise _unknown(prediction)


def to_noise(clean: Tensor, noisy: Tensor, signal: Tensor | float, noise_scale: Tensor | float) -> Tensor:
    """The unit noise that separates `noisy` from `clean`; undefined where `noise_scale` is 0."""
    return (noisy - signal * clean) / noise_scale


def loss_weights(schedule: NoiseSchedule, prediction: PredictionType) -> np.ndarray:
    """[T] weight of each time in the training loss, so that every type weighs errors of the clean sample alike."""
    if prediction == "epsilon":
        return np.ones(len(schedule))
    if prediction == "sample":
        return schedule.snr
    if prediction == "v_prediction":
        return schedule.alpha_bar
    raise _unknown(prediction)


def _unknown(prediction: str) -> ConfigError:
    return ConfigError(f"prediction type {prediction!r}, expected epsilon, v_prediction or sample")
