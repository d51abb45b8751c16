"""Noise schedules: how much signal and how much noise a sample carries at each time.

    noisy = signal(t) * clean + noise(t) * epsilon,    signal² + noise² = 1

A discrete schedule is a frozen set of float64 arrays made once; its ends are checked where it is
made. The continuous cosine schedule is two functions of t in 0..1. A `Level` is one point of either,
and a path of levels is all that a sampler needs to know (`diffusion.samplers`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from davatar.core.errors import ConfigError, DataError

ScheduleName = Literal["cosine", "linear"]


class Level(NamedTuple):
    time: float  # what the network is told: an index 0..T-1, or 0..1 for a continuous schedule
    signal: float
    noise: float


CLEAN = Level(time=-1, signal=1.0, noise=0.0)  # where every path ends


@dataclass(frozen=True)
class NoiseSchedule:
    betas: np.ndarray  # [T] float64, variance added by each step, 0..1
    alpha_bar: np.ndarray  # [T] float64, squared signal; falls from nearly 1 to nearly (or exactly) 0

    def __post_init__(self):
        for array in (self.betas, self.alpha_bar):
            array.setflags(write=False)
        ends = self.alpha_bar[0], self.alpha_bar[-1]
        if not (self.betas >= 0).all() or not 1 > ends[0] >= ends[1] >= 0 or (np.diff(self.alpha_bar) > 0).any():
            raise DataError(f"not a noise schedule: squared signal runs from {ends[0]:g} to {ends[1]:g}")

    @classmethod
    def from_betas(cls, betas: np.ndarray) -> NoiseSchedule:
        betas = np.asarray(betas, np.float64)
        return cls(betas, np.cumprod(1 - betas))

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def signal(self) -> np.ndarray:
        """[T]"""
        return np.sqrt(self.alpha_bar)

    @cached_property
    def noise(self) -> np.ndarray:
        """[T]"""
        return np.sqrt(1 - self.alpha_bar)

    @cached_property
    def snr(self) -> np.ndarray:
        """[T] signal-to-noise ratio of variances."""
        return self.alpha_bar / (1 - self.alpha_bar)

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise scale of each item.

        Args:
            t: [B] int in 0..T-1.
            like: [B, ...], gives dtype, device and the number of trailing axes.

        Returns:
            signal, noise: [B, 1, ...] each.
        """
        index = t.detach().cpu().numpy()
        shape = (-1,) + (1,) * (like.ndim - 1)
        return tuple(torch.as_tensor(x[index]).to(like).reshape(shape) for x in (self.signal, self.noise))

    def path(self, times: Sequence[int]) -> list[Level]:
        """Levels at falling time indices, followed by the clean end."""
        times = [int(t) for t in times]
        if not times or times[0] >= len(self) or times[-1] < 0 or any(b >= a for a, b in pairwise(times)):
            raise ConfigError(f"sampling times {times[:3]}... do not fall from below {len(self)} to 0")
        return [Level(t, float(self.signal[t]), float(self.noise[t])) for t in times] + [CLEAN]

    def path_of(self, steps: int) -> list[Level]:
        """`steps` levels spread evenly from the last time index, as the published DDIM sampler spreads them.

        Raises:
            ConfigError: fewer than 1 or more than T steps.
        """
        if not 1 <= steps <= len(self):
            raise ConfigError(f"{steps} sampling steps, expected 1 to {len(self)}")
        times = np.linspace(-1, len(self) - 1, steps + 1).astype(int)[::-1]
        return self.path(times[:-1].tolist())

    def path_by_log_snr(self, steps: int) -> list[Level]:
        """The last time index, then `steps - 1` levels evenly spread in the half log signal-to-noise ratio.

        What second-order solvers want: equal spacing in time takes its last step, which is of first order, from
        far too noisy a sample. The ends (signal 3 % of the noise; noise 7 % of the signal) leave nothing to see.

        Raises:
            ConfigError: fewer than 1 or more than T steps.
        """
        if not 1 <= steps <= len(self):
            raise ConfigError(f"{steps} sampling steps, expected 1 to {len(self)}")
        ratio = 0.5 * np.log(np.maximum(self.snr, 1e-30))  # falls with time; pure noise lies below every target
        low, high = ratio[-1], min(2.65, ratio[0])
        wanted = np.linspace(-3.5, high, steps - 1) if low < -3.5 else np.linspace(low, high, steps)[1:]
        times = [len(self) - 1]
        for left, nearest in zip(
            range(steps - 2, -1, -1), np.abs(ratio[:, None] - wanted).argmin(0).tolist(), strict=True
        ):
            times.append(max(min(nearest, times[-1] - 1), left))
        return self.path(times)


def cosine_schedule(steps: int = 1000) -> NoiseSchedule:
    """Squared-cosine schedule, offset 0.008, betas at most 0.999 (spec dphm 4.2)."""
    x = np.arange(steps + 1, dtype=np.float64) / steps
    alpha_bar = np.cos((x + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha_bar /= alpha_bar[0]
    return NoiseSchedule.from_betas(np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0, 0.999))


def linear_schedule(steps: int = 1000) -> NoiseSchedule:
    """Betas rise linearly from 0.1/T to 20/T (spec dphm 4.2)."""
    return NoiseSchedule.from_betas(np.linspace(0.1 / steps, 20 / steps, steps, dtype=np.float64))


def scaled_linear_schedule(
    steps: int = 1000, start: float = 0.00085, end: float = 0.012, zero_terminal_snr: bool = True
) -> NoiseSchedule:
    """Stable Diffusion's betas (linear in their roots), optionally rescaled to end in pure noise (spec avatars 5.1)."""
    betas = np.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=np.float64) ** 2
    if not zero_terminal_snr:
        return NoiseSchedule.from_betas(betas)
    signal = np.sqrt(np.cumprod(1 - betas))
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    alpha_bar = signal**2
    return NoiseSchedule.from_betas(1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]]))


def named_schedule(name: ScheduleName, steps: int) -> NoiseSchedule:
    """
    Raises:
        ConfigError: no schedule of that name.
    """
    makers = {"cosine": cosine_schedule, "linear": linear_schedule}
    if name not in makers:
        raise ConfigError(f"no noise schedule is called {name!r}; there are {', '.join(makers)}")
    return makers[name](steps)


def continuous_cosine(time: Tensor | float) -> tuple[Tensor, Tensor]:
    """Signal cos(πt/2) and noise sin(πt/2) for t in 0..1: nothing of the signal is left at t = 1."""
    angle = torch.as_tensor(time) * (math.pi / 2)
    return torch.cos(angle), torch.sin(angle)


def continuous_path(steps: int, power: float = 1.0) -> list[Level]:
    """Times (1 - j/steps)^power, j = 0..steps, of the continuous cosine schedule; starts in pure noise."""
    if steps < 1:
        raise ConfigError(f"{steps} sampling steps, expected at least 1")
    times = [(1 - j / steps) ** power for j in range(steps)]
    levels = [Level(t, math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)) for t in times]
    return [Level(1.0, 0.0, 1.0), *levels[1:], CLEAN]
