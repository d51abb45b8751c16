import numpy as np
import pytest
import torch

from davatar.checks.verify.dphm_diffusion import buffers
from davatar.core.errors import ConfigError, DataError
from davatar.diffusion.parameterization import loss_weights
from davatar.diffusion.schedule import (
    NoiseSchedule,
    continuous_cosine,
    continuous_path,
    cosine_schedule,
    named_schedule,
    scaled_linear_schedule,
)

# spec dphm 10.3 (relative 1e-5: the originals round to float32): t, beta, alpha_bar, posterior variance, its clipped
# logarithm, both coefficients of the posterior mean, weight v, weight x0
SPEC_10_3 = [
    (0, 4.12842237e-05, 0.999958694, 0, -46.0517006, 1, 0, 0.999958694, 24221.3281),
    (1, 4.61417512e-05, 0.99991256, 2.17894958e-05, -10.7340822, 0.527781427, 0.472218603, 0.99991256, 11437.4971),
    (500, 0.00315569155, 0.492285162, 0.0031460051, -5.76162195, 0.00436786702, 0.995356262, 0.492285162, 0.969609618),
    (999, 0.999000013, 2.42876697e-09, 0.998997569, -0.00100292673, 0.00155689172, 0.0316227004, 2.42876697e-09,
     2.42876697e-09),
]  # fmt: skip
POSTERIOR = ("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2")


@pytest.mark.parametrize("row", SPEC_10_3)
def test_cosine_schedule_equals_the_published_one(row):
    t, beta, alpha_bar, *posterior, weight_v, weight_clean = row
    schedule = cosine_schedule(1000)
    assert schedule.betas[t] == pytest.approx(beta, rel=1e-5)
    assert schedule.alpha_bar[t] == pytest.approx(alpha_bar, rel=1e-5)
    found = buffers(schedule)
    assert [found[name][t] for name in POSTERIOR] == pytest.approx(posterior, rel=1e-5, abs=1e-15)
    assert loss_weights(schedule, "v_prediction")[t] == pytest.approx(weight_v, rel=1e-5)
    assert loss_weights(schedule, "sample")[t] == pytest.approx(weight_clean, rel=1e-4)  # 1 - alpha_bar in float32
    assert loss_weights(schedule, "epsilon")[t] == 1


def test_scaled_linear_schedule_ends_in_pure_noise_and_equals_diffusers():
    from diffusers import DDIMScheduler

    schedule = scaled_linear_schedule()
    assert schedule.alpha_bar[-1] == 0 and schedule.betas[-1] == 1
    theirs = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    np.testing.assert_allclose(schedule.alpha_bar, theirs.alphas_cumprod.numpy(), atol=2e-6)  # theirs is float32


def test_continuous_cosine_leaves_no_signal_at_one():
    signal, noise = continuous_cosine(torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64))
    assert torch.allclose(signal**2 + noise**2, torch.ones(3, dtype=torch.float64))
    assert signal[0] == 1 and noise[2] == 1 and abs(signal[2]) < 1e-15
    first, *_, last = continuous_path(5)
    assert (first.signal, first.noise) == (0, 1) and (last.signal, last.noise) == (1, 0)


def test_levels_follow_each_item_and_dtype():
    signal, noise = cosine_schedule(10).at(torch.tensor([0, 9]), torch.zeros(2, 3, 4, dtype=torch.float64))
    assert signal.shape == (2, 1, 1) and signal.dtype == torch.float64
    assert torch.allclose(signal**2 + noise**2, torch.ones(2, 1, 1, dtype=torch.float64))


def test_a_schedule_cannot_be_changed_or_senseless():
    schedule = cosine_schedule(10)
    with pytest.raises(ValueError):
        schedule.betas[0] = 0.5
    with pytest.raises(DataError, match="not a noise schedule"):
        NoiseSchedule.from_betas(np.array([0.1, -0.2]))


@pytest.mark.parametrize("steps", [0, 11])
def test_paths_refuse_step_counts_that_do_not_exist(steps):
    with pytest.raises(ConfigError, match=f"{steps} sampling steps"):
        cosine_schedule(10).path_of(steps)


def test_unknown_schedule_lists_the_known_ones():
    with pytest.raises(ConfigError, match="cosine, linear"):
        named_schedule("sine", 10)


@pytest.mark.parametrize("steps", [1, 2, 8, 50, 400, 1000])
def test_path_by_log_snr_falls_from_pure_noise_in_even_steps(steps):
    schedule = scaled_linear_schedule()
    path = schedule.path_by_log_snr(steps)
    assert len(path) == steps + 1 and path[0].signal == 0 and path[-1].noise == 0
    if steps == 8:
        ratio = np.log([level.signal / level.noise for level in path[1:-1]])
        assert ratio[0] == pytest.approx(-3.5, abs=0.1) and ratio[-1] == pytest.approx(2.65, abs=0.1)
        assert np.allclose(np.diff(ratio), np.diff(ratio).mean(), rtol=0.1)


def test_path_by_log_snr_of_a_schedule_that_keeps_some_signal():
    path = scaled_linear_schedule(zero_terminal_snr=False).path_by_log_snr(6)
    ratio = np.log([level.signal / level.noise for level in path[:-1]])
    assert path[0].time == 999 and np.allclose(np.diff(ratio), np.diff(ratio).mean(), rtol=0.1)


def test_path_by_log_snr_refuses_too_many_steps():
    with pytest.raises(ConfigError, match="1001 sampling steps"):
        scaled_linear_schedule().path_by_log_snr(1001)
