"""diffusers' schedulers have the published noise levels, and walk as our samplers do."""

import numpy as np
import pytest
import torch

from davatar.core.errors import ConfigError
from davatar.diffusion.library import library_scheduler, sample_library
from davatar.diffusion.parameterization import add_noise, target
from davatar.diffusion.samplers import as_denoiser, sample_ancestral, sample_ddim, sample_dpm_solver, sample_unipc
from davatar.diffusion.schedule import cosine_schedule

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
SCHEDULE = cosine_schedule(1000)
START = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(noisy, t):
    """Anything smooth that looks at both arguments."""
    return torch.sin(noisy + 0.003 * t[:, None].to(noisy)) * 0.7


def test_their_cosine_is_the_published_one():
    """Spec dphm 10.3; theirs is a float32 product of 1000 factors, so its last levels are rounded."""
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    np.testing.assert_allclose(theirs.betas.numpy(), SCHEDULE.betas, rtol=2e-3, atol=1e-7)
    np.testing.assert_allclose(theirs.betas[[0, 500, 999]], [4.12842237e-05, 0.00315569155, 0.999000013], rtol=2e-3)
    np.testing.assert_allclose(theirs.alphas_cumprod.numpy(), SCHEDULE.alpha_bar, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noising_and_targets_agree(prediction):
    theirs = library_scheduler("ddpm", SCHEDULE, prediction)
    clean, noise = START.float(), START.flip(0).float()
    t = torch.tensor([0, 500, 998])
    signal, scale = SCHEDULE.at(t, clean)
    assert torch.allclose(theirs.add_noise(clean, noise, t), add_noise(clean, noise, signal, scale), atol=1e-5)
    if prediction == "v_prediction":
        velocity = theirs.get_velocity(clean, noise, t)
        assert torch.allclose(velocity, target(prediction, clean, noise, signal, scale), atol=1e-5)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_ddim_walks_alike(prediction, clip):
    theirs = sample_library(network, library_scheduler("ddim", SCHEDULE, prediction, clip), START, 20)
    ours = sample_ddim(as_denoiser(network, prediction, clip), START, SCHEDULE.path_of(20))
    assert torch.allclose(ours, theirs, atol=1e-4)  # they keep the schedule in float32


def test_ancestral_walks_alike():
    schedule = cosine_schedule(40)
    scheduler = library_scheduler("ddpm", schedule, "v_prediction", 1.0)
    theirs = sample_library(network, scheduler, START, 40, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    denoise = as_denoiser(network, "v_prediction", 1.0)
    ours = sample_ancestral(
        denoise, START, schedule.path_of(40), lambda: torch.randn(3, 6, generator=generator, dtype=torch.float64)
    )
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("name, sampler", [("dpm", sample_dpm_solver), ("unipc", sample_unipc)])
def test_few_step_solvers_walk_alike(name, sampler):
    theirs = sample_library(network, library_scheduler(name, SCHEDULE, "v_prediction"), START, 20)
    ours = sampler(as_denoiser(network, "v_prediction"), START, SCHEDULE.path_of(20))
    assert torch.allclose(ours, theirs, atol=2e-3)


def test_what_they_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="does not clamp"):
        library_scheduler("dpm", SCHEDULE, "v_prediction", 1.0)
    with pytest.raises(ConfigError, match="no library scheduler"):
        library_scheduler("euler", SCHEDULE, "v_prediction")
