"""Schedulers of diffusers with our noise levels, and the loop that walks them.

Given the betas, their steps equal ours where the settings below are chosen (tests/diffusion/test_library.py):
samples are clamped alike, and DDIM's noise is derived from the clamped sample unless the network predicts
noise. Ours remain for what they do not do: time that is continuous, and DPM-Solver++ with clamped samples.
diffusers is imported here only, by whoever asks: it takes seconds.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from davatar.core.errors import ConfigError
from davatar.diffusion.loss import Network
from davatar.diffusion.parameterization import PredictionType
from davatar.diffusion.schedule import NoiseSchedule

LibraryName = Literal["ddim", "ddpm", "dpm", "unipc"]


def library_scheduler(
    name: LibraryName, schedule: NoiseSchedule, prediction: PredictionType, clip: float | None = None
) -> Any:
    """A diffusers scheduler that walks `schedule`.

    Args:
        clip: clean samples are clamped to [-clip, clip] (ddim, ddpm).

    Raises:
        ConfigError: an unknown name, or a clamp that this scheduler cannot do.
    """
    import diffusers

    shared = {"num_train_timesteps": len(schedule), "trained_betas": schedule.betas.tolist()}
    shared |= {"prediction_type": prediction, "timestep_spacing": "trailing"}
    clamp = {"clip_sample": clip is not None, "clip_sample_range": clip or 1.0}
    if name == "ddim":
        return diffusers.DDIMScheduler(**shared, **clamp)
    if name == "ddpm":
        return diffusers.DDPMScheduler(**shared, **clamp, variance_type="fixed_small")
    if name not in ("dpm", "unipc"):
        raise ConfigError(f"no library scheduler is called {name!r}; there are ddim, ddpm, dpm, unipc")
    if clip is not None:
        raise ConfigError(f"the library's {name} scheduler does not clamp samples", mend="take ours of the same name")
    if name == "dpm":
        return diffusers.DPMSolverMultistepScheduler(**shared, final_sigmas_type="zero")
    return diffusers.UniPCMultistepScheduler(**shared, final_sigmas_type="zero")


@torch.no_grad()
def sample_library(
    network: Network, scheduler: Any, start: Tensor, steps: int, generator: torch.Generator | None = None
) -> Tensor:
    """From unit noise to clean samples with any diffusers scheduler.

    Args:
        start: [B, ...] unit noise.
        generator: of the noise that some schedulers add on the way.
    """
    scheduler.set_timesteps(steps)
    noisy = start * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        time = torch.full((len(noisy),), int(t), device=noisy.device)
        output = network(scheduler.scale_model_input(noisy, t), time)
        noisy = scheduler.step(output, t, noisy, **_step_settings(scheduler, generator)).prev_sample
    return noisy


def _step_settings(scheduler: Any, generator: torch.Generator | None) -> dict[str, Any]:
    name = type(scheduler).__name__
    if name == "DDIMScheduler":  # as published: the noise goes with the clamped sample (spec dphm 4.4)
        return {"use_clipped_model_output": scheduler.config.prediction_type != "epsilon"}
    return {"generator": generator} if name == "DDPMScheduler" else {}
