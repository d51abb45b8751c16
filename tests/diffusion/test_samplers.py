"""Truths about samplers, and agreement with diffusers where both can walk the same times."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from davatar.diffusion.parameterization import Denoised, add_noise, target, to_clean, to_noise
from davatar.diffusion.samplers import as_denoiser, sample_ancestral, sample_ddim, sample_dpm_solver, sample_unipc
from davatar.diffusion.schedule import continuous_path, cosine_schedule, scaled_linear_schedule

WEIGHT = torch.linspace(-0.9, 1.1, 36, dtype=torch.float64).reshape(6, 6).sin()


def network(noisy, t):
    """A smooth stand-in for a trained network."""
    return torch.tanh(noisy @ WEIGHT + t[:, None].to(noisy) / 1000) * 0.7


def gaussian(std):
    """The exact denoiser of codes ~ N(0, std²)."""

    def denoise(noisy, level):
        clean = noisy * level.signal * std**2 / (level.signal**2 * std**2 + level.noise**2)
        return Denoised(clean, to_noise(clean, noisy, level.signal, level.noise))

    return denoise


@given(level=st.floats(0.01, 1.55), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_every_prediction_type_gives_clean_and_noise_back(level, seed):
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    signal, scale = float(np.cos(level)), float(np.sin(level))
    noisy = add_noise(clean, noise, signal, scale)
    for prediction in ("epsilon", "v_prediction", "sample"):
        found = to_clean(prediction, target(prediction, clean, noise, signal, scale), noisy, signal, scale)
        assert torch.allclose(found, clean, atol=1e-9)
        assert torch.allclose(to_noise(found, noisy, signal, scale), noise, atol=1e-9)


@pytest.mark.parametrize(
    "sampler",
    ["ancestral", "ddim", "ddim eta 1", "dpm", "unipc", "ddim continuous", "dpm continuous", "unipc continuous"],
)
def test_a_sampler_on_a_gaussian_returns_its_spread(sampler):
    std = 0.4
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(20000, generator=generator, dtype=torch.float64)

    def draw():
        return torch.randn(20000, generator=generator, dtype=torch.float64)

    steps = 200 if sampler in ("ancestral", "ddim eta 1") else 60  # random steps lose spread when they are wide
    path = continuous_path(60) if "continuous" in sampler else cosine_schedule(200).path_of(steps)
    walk = {
        "ancestral": lambda d: sample_ancestral(d, start, path, draw),
        "ddim": lambda d: sample_ddim(d, start, path),
        "ddim eta 1": lambda d: sample_ddim(d, start, path, eta=1.0, draw=draw),
        "dpm": lambda d: sample_dpm_solver(d, start, path),
        "unipc": lambda d: sample_unipc(d, start, path),
    }[sampler.removesuffix(" continuous")]
    assert walk(gaussian(std)).std().item() == pytest.approx(std, rel=0.06)


def test_ancestral_equals_ddim_with_full_randomness():
    path = cosine_schedule(100).path_of(12)
    start = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noises = torch.randn(12, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    denoise = as_denoiser(network, "v_prediction", clip=1.0)
    one, two = iter(noises), iter(noises)
    ancestral = sample_ancestral(denoise, start, path, lambda: next(one))
    assert torch.allclose(ancestral, sample_ddim(denoise, start, path, eta=1.0, draw=lambda: next(two)), atol=1e-10)


def _walk(scheduler, start, times, network, **step):
    noisy = start
    for t in times:
        output = network(noisy, torch.full((len(noisy),), int(t)))
        noisy = scheduler.step(output, t, noisy, **step).prev_sample
    return noisy


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_equals_diffusers(prediction):
    from diffusers import DDIMScheduler

    schedule = scaled_linear_schedule(zero_terminal_snr=prediction != "epsilon")
    theirs = DDIMScheduler(
        trained_betas=schedule.betas, prediction_type=prediction, timestep_spacing="trailing", clip_sample=False
    )
    theirs.set_timesteps(20)
    start = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = sample_ddim(as_denoiser(network, prediction), start, schedule.path(theirs.timesteps.tolist()))
    # theirs keeps the schedule in float32; an "epsilon" network divides by a small signal at the start
    assert torch.allclose(ours, _walk(theirs, start, theirs.timesteps, network), atol=1e-4)


def test_ancestral_equals_diffusers():
    from diffusers import DDPMScheduler

    schedule = cosine_schedule(40)
    theirs = DDPMScheduler(
        num_train_timesteps=40,
        trained_betas=schedule.betas,
        prediction_type="v_prediction",
        clip_sample=True,
        variance_type="fixed_small",
    )
    start = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = _walk(theirs, start, range(39, -1, -1), network, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    found = sample_ancestral(
        as_denoiser(network, "v_prediction", clip=1.0),
        start,
        schedule.path(range(39, -1, -1)),
        lambda: torch.randn(3, 6, generator=generator, dtype=torch.float64),
    )
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers
def test_dpm_solver_equals_diffusers():
    from diffusers import DPMSolverMultistepScheduler

    schedule = scaled_linear_schedule(zero_terminal_snr=False)
    theirs = DPMSolverMultistepScheduler(
        trained_betas=schedule.betas,
        prediction_type="v_prediction",
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
        timestep_spacing="trailing",
    )
    theirs.set_timesteps(12)
    start = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = sample_dpm_solver(as_denoiser(network, "v_prediction"), start, schedule.path(theirs.timesteps.tolist()))
    assert torch.allclose(ours, _walk(theirs, start, theirs.timesteps, network), atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers
@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_unipc_equals_diffusers(steps):
    from diffusers import UniPCMultistepScheduler

    schedule = scaled_linear_schedule(zero_terminal_snr=False)
    theirs = UniPCMultistepScheduler(
        trained_betas=schedule.betas,
        prediction_type="v_prediction",
        final_sigmas_type="zero",
        timestep_spacing="trailing",
    )
    theirs.set_timesteps(steps)
    start = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = sample_unipc(as_denoiser(network, "v_prediction"), start, schedule.path(theirs.timesteps.tolist()))
    assert torch.allclose(ours, _walk(theirs, start, theirs.timesteps, network), atol=2e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers
@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_solvers_of_diffusers_agree_on_zero_terminal_snr(name):
    """Theirs puts a tiny signal where the schedule has none (2^-24 of variance): nearly the same steps."""
    import diffusers

    theirs = getattr(diffusers, name)(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        final_sigmas_type="zero",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    theirs.set_timesteps(8)
    start = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    walk = {"DPMSolverMultistepScheduler": sample_dpm_solver, "UniPCMultistepScheduler": sample_unipc}[name]
    path = scaled_linear_schedule().path(theirs.timesteps.tolist())
    ours = walk(as_denoiser(network, "v_prediction"), start, path)
    assert torch.isfinite(ours).all()
    assert torch.allclose(ours, _walk(theirs, start, theirs.timesteps, network), atol=0.02)


@pytest.mark.parametrize("walk", [sample_dpm_solver, sample_unipc])
def test_solvers_converge_from_pure_noise_faster_than_ddim(walk):
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    schedule = scaled_linear_schedule()

    def error(sampler, path):
        return (sampler(gaussian(0.5), start, path) - exact).abs().max()

    exact = sample_ddim(gaussian(0.5), start, schedule.path(range(999, -1, -1)))
    times = [999 - 100 * k for k in range(10)]  # evenly in time, as published
    solver = error(walk, schedule.path_by_log_snr(10))
    assert solver < 0.25 * error(walk, schedule.path(times))
    assert solver < 0.25 * error(sample_ddim, schedule.path_by_log_snr(10))
    assert solver < 0.25 * error(sample_ddim, schedule.path(times))


def test_dpm_solver_needs_few_steps():
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    schedule = cosine_schedule(1000)
    exact = sample_ddim(gaussian(0.5), start, schedule.path_of(1000))
    solver = (sample_dpm_solver(gaussian(0.5), start, schedule.path_of(20)) - exact).abs().max()
    ddim = (sample_ddim(gaussian(0.5), start, schedule.path_of(20)) - exact).abs().max()
    assert solver < 0.5 * ddim
