"""Losses, samplers and the prior's pull against the published numbers (golden C, spec dphm 10.4, 10.5)."""

import numpy as np
import pytest
import torch

from davatar.checks.verify.dphm_diffusion import CHECKS
from davatar.diffusion.parameterization import add_noise
from davatar.diffusion.samplers import as_denoiser, sample_ancestral, sample_ddim
from davatar.diffusion.schedule import cosine_schedule
from davatar.prior.guidance import guidance
from davatar.prior.normalization import LinearNormalization, RangeNormalization
from davatar.prior.unet import UNet1d

SCHEDULE = cosine_schedule(1000)

SPEC_10_5 = {  # mode, objective: value, gradient
    ("denoise", "v_prediction"): (
        0.433663867,
        [-0.042872544, -0.010995386, -0.001190865, -0.066641246, 0.057165652, 0.015169633, -0.089455506, -0.022478865],
    ),
    ("denoise", "epsilon"): (
        0.84650894,
        [0.029522896, 0.013719793, 0.007887682, 0.00735576, -0.000195622, -0.028003635, -0.013258314, 0.011032044],
    ),
    ("score", "v_prediction"): (
        0.055893719,
        [-0.026193346, -0.003972103, -0.005225145, -0.045613453, 0.01597026, -0.000740271, -0.054706077, -0.012341127],
    ),
    ("score", "epsilon"): (
        0.089800065,
        [-0.035040187, -0.010122127, 0.012132158, -0.05754366, 0.014807366, -0.014953891, -0.068681156, 0.005391893],
    ),
}


@pytest.mark.parametrize("mode, prediction", SPEC_10_5)
def test_conformance_vector(wave, wave_weights, mode, prediction):
    codes = torch.as_tensor(wave(8, 1.7, 0.2, 1.2))[None]
    noise = torch.as_tensor(wave(8, 2.3, 0.9, 1.0))[None]
    network = wave_weights(UNet1d(8, (1, 2)))
    range_ = RangeNormalization(-1.5, 1.5, 8)
    value, gradient = guidance(network, SCHEDULE, prediction, range_, codes, torch.tensor([500]), noise, mode)
    expected, pull = SPEC_10_5[mode, prediction]
    assert value.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient[0].numpy(), pull, rtol=2e-5, atol=1e-7)


SPEC_10_4 = {  # prediction: clean, noise, ancestral step, DDIM to 300 with eta 0 and 0.5
    "epsilon": (
        [0.270798488, -0.11433583, -1, 0.076099385, 0.098410346, 0.977052872, 1, -0.618311428],
        None,  # the output as it is
        [0.711675847, 0.483521323, -0.79156822, 0.299553156, -0.110893244, 0.247926606, 0.189131334, -0.989695898],
        [0.551704513, 0.268898225, -0.586893019, 0.191530578, -0.007425203, 0.585700983, 0.518297168, -0.875276465],
        [0.677110053, 0.221546197, -0.755888973, 0.377783673, -0.12237614, 0.579901165, 0.721753953, -1.034531825],
    ),
    "sample": (
        None,
        [0.276959857, -0.100340396, -1.69102897, 0.079037695, 0.093773096, 0.95282111, 0.976406686, -0.619665843],
        [0.713433382, 0.48751353, -0.784375229, 0.300391311, -0.112216023, 0.241014479, 0.181291219, -0.990082246],
        [0.724908349, 0.662327469, -0.209649291, 0.274130163, -0.137784144, -0.095484314, -0.252538855, -0.913350777],
        [0.868033901, 0.655226113, -0.274090638, 0.468833796, -0.266071748, -0.17097434, -0.128302588, -1.076501417],
    ),
    "v_prediction": (
        [-0.009807741, -0.226293832, -0.987874691, -0.019512359, 0.091908518, 0.609706007, 0.663238268, -0.154127123],
        [0.949486268, 0.909902541, -0.08138787, 0.362138221, -0.198030612, -0.243720086, -0.459456011, -1.163840263],
        [0.710450196, 0.483032305, -0.791515258, 0.299135537, -0.110921643, 0.246322084, 0.187660404, -0.987668402],
        [0.430917494, 0.220705876, -0.913294167, 0.15037448, -0.010223917, 0.427576437, 0.375139843, -0.675468219],
        [0.543965644, 0.168423421, -1.0497235, 0.332417006, -0.125461183, 0.405599328, 0.563592204, -0.814281744],
    ),
}


@pytest.mark.parametrize("prediction", SPEC_10_4)
def test_algebraic_steps(wave, prediction):
    """Spec dphm 10.4: the network is a constant."""
    codes, noise = torch.as_tensor(wave(8, 1.7, 0.2, 1.2))[None], torch.as_tensor(wave(8, 2.3, 0.9, 1.0))[None]
    out = torch.as_tensor(wave(8, 0.6, 1.0, 0.8))[None]
    clean, epsilon, step, plain, random = SPEC_10_4[prediction]
    normalised = RangeNormalization(-1.5, 1.5, 8).normalise(codes)
    assert normalised[0, :2].tolist() == pytest.approx([0.158935465, 0.75704007], rel=1e-5)
    noisy = add_noise(normalised, noise, *SCHEDULE.at(torch.tensor([500]), normalised))
    assert noisy[0, :3].tolist() == pytest.approx([0.669666567, 0.489568316, -0.751115102], rel=1e-5)
    denoise = as_denoiser(lambda x, t: out, prediction, clip=1.0)
    near, far = SCHEDULE.path([500, 499])[:2], SCHEDULE.path([500, 300])[:2]
    found = denoise(noisy, near[0])
    for value, expected in (
        (found.clean, clean or out[0].tolist()),
        (found.noise, epsilon or out[0].tolist()),
        (sample_ancestral(denoise, noisy, near, lambda: noise), step),
        (sample_ddim(denoise, noisy, far), plain),
        (sample_ddim(denoise, noisy, far, eta=0.5, draw=lambda: noise), random),
    ):
        np.testing.assert_allclose(value[0].numpy(), expected, rtol=1e-5, atol=1e-7)


def test_golden_losses_samplers_and_pulls(recomputed, shared):
    recomputed(CHECKS, shared / "golden" / "dphm" / "C_diffusion_small.npz")


@pytest.mark.parametrize("mode", ["denoise", "score"])
@pytest.mark.parametrize("batch", [1, 3])
def test_gradient_is_that_of_the_value_off_the_plane(mode, batch):
    """A prior on a plane: off it, codes are pulled straight back; in it, as by the network on its own."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64))[0][:3]
    plane = LinearNormalization(np.zeros(7), rows.numpy())
    codes = torch.randn(batch, 7, generator=generator, dtype=torch.float64)
    noise = torch.randn(batch, 3, generator=generator, dtype=torch.float64)
    t = torch.full((batch,), 500)

    def still(x, t):
        return torch.zeros_like(x)

    value, gradient = guidance(still, SCHEDULE, "v_prediction", plane, codes, t, noise, mode)
    inside = codes @ rows.T @ rows
    on_value, on_gradient = guidance(still, SCHEDULE, "v_prediction", plane, inside, t, noise, mode)
    assert value > on_value
    off = gradient - on_gradient
    pull = (off * (codes - inside)).sum(dim=1)
    cosine = pull / off.norm(dim=1) / (codes - inside).norm(dim=1)
    assert torch.allclose(cosine, torch.ones(batch, dtype=torch.float64), atol=1e-4)
    if mode == "denoise":
        step = 1e-4 * torch.randn(batch, 7, generator=generator, dtype=torch.float64)
        after, _ = guidance(still, SCHEDULE, "v_prediction", plane, codes + step, t, noise, mode)
        before, _ = guidance(still, SCHEDULE, "v_prediction", plane, codes - step, t, noise, mode)
        assert (after - before).item() / 2 == pytest.approx((gradient * step).sum().item(), rel=1e-3)
