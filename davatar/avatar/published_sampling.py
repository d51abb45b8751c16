"""From noise to latents for the published kind of avatar: samplers and the paths that they walk.

    ddpm                          random, the published default
    ddim, dpm-solver++, unipc     deterministic, fewer steps

Times are spread as the published models were trained for ("trailing"). With `compat` the
deterministic ones end at the first time instead of at clean latents, and unipc walks the base's schedule instead
of the one that the model was trained with (spec diffusion-avatars 7.1, 11.13).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from davatar.core.errors import ConfigError
from davatar.diffusion.samplers import Denoise, sample_ancestral, sample_ddim, sample_dpm_solver, sample_unipc
from davatar.diffusion.schedule import Level, NoiseSchedule

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


def sampling_path(
    sampler: str, steps: int, trained: NoiseSchedule, plain: NoiseSchedule, compat: bool = False
) -> list[Level]:
    """
    Args:
        trained: the schedule that the model was trained with.
        plain: the base's own, without zero terminal SNR.

    Raises:
        ConfigError: no such sampler, or too many steps.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"no sampler is called {sampler!r}; there are {', '.join(SAMPLERS)}")
    if not compat or sampler == "ddpm":
        return trained.path(trailing_times(steps))
    schedule = plain if sampler == "unipc" else trained
    first = Level(-1, float(schedule.signal[0]), float(schedule.noise[0]))
    return [*schedule.path(trailing_times(steps))[:-1], first]


def walk(
    sampler: str,
    denoise: Denoise,
    start: torch.Tensor,
    path: Sequence[Level],
    draw: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """Latents at the end of `path`; `draw` gives the noise that ddpm adds."""
    if sampler == "ddpm":
        return sample_ancestral(denoise, start, path, draw)
    return SOLVERS[sampler](denoise, start, path)
