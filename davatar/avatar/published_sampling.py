"""From noise to latents for the published kind of avatar: samplers and the paths that they walk.

    ddpm                          random, the published default
    ddim, dpm-solver++, unipc     deterministic, fewer steps

Times of ddpm and ddim are spread as the published models were trained for ("trailing"); second-order samplers want
them even in the log signal-to-noise ratio (`NoiseSchedule.path_by_log_snr`). With `compat` the published flaws return
(spec diffusion-avatars 7.1, 11.13): every step of ddpm and ddim ends a whole stride below its time, where the next
one may not begin; the deterministic samplers end at the first time instead of at clean latents; unipc walks the
base's schedule instead of the one that the model was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from davatar.core.errors import ConfigError
from davatar.diffusion.samplers import Denoise, sample_ancestral, sample_ddim, sample_dpm_solver, sample_unipc
from davatar.diffusion.schedule import CLEAN, Level, NoiseSchedule

SOLVERS = {"ddim": sample_ddim, "dpm-solver++": sample_dpm_solver, "unipc": sample_unipc}
SAMPLERS = ("ddpm", *SOLVERS)
TIMES = 1000


def trailing_times(steps: int) -> list[int]:
    """Falling times that end a stride above 0 and start at the last one (7.1).

    Raises:
        ConfigError: fewer than 1 or more than 1000 steps.
    """
    if not 1 <= steps <= TIMES:
        raise ConfigError(f"{steps} sampling steps, expected 1 to {TIMES}")
    return [int(t) - 1 for t in np.round(np.arange(TIMES, 0, -TIMES / steps))[:steps]]


def sampling_legs(
    sampler: str, steps: int, trained: NoiseSchedule, plain: NoiseSchedule, compat: bool = False
) -> list[list[Level]]:
    """The paths that a run walks one after the other; all but published flaws are one path.

    Args:
        trained: the schedule that the model was trained with.
        plain: the base's own, without zero terminal SNR.

    Raises:
        ConfigError: no such sampler, or too many steps.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"no sampler is called {sampler!r}; there are {', '.join(SAMPLERS)}")
    times = trailing_times(steps)
    if not compat:
        second_order = sampler in ("dpm-solver++", "unipc")
        return [trained.path_by_log_snr(steps) if second_order else trained.path(times)]
    schedule = plain if sampler == "unipc" else trained
    first = Level(-1, float(schedule.signal[0]), float(schedule.noise[0]))
    if sampler not in ("ddpm", "ddim"):
        return [[*schedule.path(times)[:-1], first]]
    end = CLEAN if sampler == "ddpm" else first
    below = [time - TIMES // steps for time in times]
    return [
        [schedule.path([time])[0], schedule.path([t])[0] if t >= 0 else end]
        for time, t in zip(times, below, strict=True)
    ]


def walk(
    sampler: str,
    denoise: Denoise,
    start: torch.Tensor,
    legs: Sequence[Sequence[Level]],
    draw: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """Latents at the end of the last of `legs`; `draw` gives the noise that ddpm adds."""
    for path in legs:
        if sampler == "ddpm":
            start = sample_ancestral(denoise, start, path, draw)
        else:
            start = SOLVERS[sampler](denoise, start, path)
    return start
