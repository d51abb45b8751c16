"""Losses, samplers and the prior's pull against the published numbers (golden C, spec dphm 10.4, 10.5)."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from davatar.diffusion.loss import item_losses, training_loss
from davatar.diffusion.parameterization import add_noise
from davatar.diffusion.samplers import as_denoiser, sample_ancestral, sample_ddim
from davatar.diffusion.schedule import cosine_schedule
from davatar.prior.guidance import guidance
from davatar.prior.normalization import LinearNormalization, RangeNormalization
from davatar.prior.unet import UNet1d

SCHEDULE = cosine_schedule(1000)
OBJECTIVES = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}

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


def test_algebraic_steps(wave):
    """Spec dphm 10.4, v-prediction rows."""
    codes, noise = torch.as_tensor(wave(8, 1.7, 0.2, 1.2))[None], torch.as_tensor(wave(8, 2.3, 0.9, 1.0))[None]
    out = torch.as_tensor(wave(8, 0.6, 1.0, 0.8))[None]
    normalised = RangeNormalization(-1.5, 1.5, 8).normalise(codes)
    assert normalised[0, :2].tolist() == pytest.approx([0.158935465, 0.75704007], rel=1e-5)
    noisy = add_noise(normalised, noise, *SCHEDULE.at(torch.tensor([500]), normalised))
    denoise = as_denoiser(lambda x, t: out, "v_prediction", clip=1.0)
    path = SCHEDULE.path([500, 499])[:2]
    step = sample_ancestral(denoise, noisy, path, lambda: noise)
    assert step[0, :3].tolist() == pytest.approx([0.710450196, 0.483032305, -0.791515258], rel=1e-5)
    path = SCHEDULE.path([500, 300])[:2]
    plain = sample_ddim(denoise, noisy, path)
    assert plain[0, :3].tolist() == pytest.approx([0.430917494, 0.220705876, -0.913294167], rel=1e-5)
    random = sample_ddim(denoise, noisy, path, eta=0.5, draw=lambda: noise)
    assert random[0, :3].tolist() == pytest.approx([0.543965644, 0.168423421, -1.0497235], rel=1e-5)


@pytest.fixture
def golden(shared):
    folder = shared / "golden" / "dphm"
    network = UNet1d(16, (1, 2, 4))
    network.load_state_dict(load_file(folder / "C_unet_small.safetensors"))
    return np.load(folder / "C_diffusion_small.npz"), network


def _range(golden):
    return RangeNormalization(float(golden["minimum"]), float(golden["maximum"]), 24)


@pytest.mark.parametrize("objective, prediction", OBJECTIVES.items())
def test_golden_training_loss(golden, objective, prediction):
    arrays, network = golden
    codes = torch.as_tensor(arrays["latent"])
    normalised, t, noise = (
        _range(arrays).normalise(codes),
        torch.as_tensor(arrays["t"]),
        torch.as_tensor(arrays["noise"]),
    )
    np.testing.assert_allclose(normalised.numpy(), arrays["normalized"], atol=1e-6)
    noisy = add_noise(normalised, noise, *SCHEDULE.at(t, normalised))
    np.testing.assert_allclose(noisy.numpy(), arrays["q_sample"], atol=1e-6)
    each = item_losses(network, SCHEDULE, prediction, normalised, t, noise)
    np.testing.assert_allclose(each.detach().numpy(), arrays[f"train_loss_each_{objective}"], rtol=1e-4)
    loss = training_loss(network, SCHEDULE, prediction, normalised, t, noise)
    loss.backward()
    for name in ("init_conv", "final_conv"):
        expected = arrays[f"train_grad_{name}_{objective}"]
        found = getattr(network, name).weight.grad.numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("objective, prediction", OBJECTIVES.items())
@pytest.mark.parametrize("mode, scale", [("denoise", 1), ("score", 1), ("score", 0.25)])
def test_golden_prior_value_and_gradient(golden, objective, prediction, mode, scale):
    """Float32 originals; the independent implementation agreed to 1.8e-7 and 1.5e-6 relative."""
    arrays, network = golden
    name = f"skip{int(mode == 'score')}_gs{scale}_{objective}"
    codes, noise = torch.as_tensor(arrays["latent"])[:, 0], torch.as_tensor(arrays["noise"])[:, 0]
    t = torch.as_tensor(arrays["t"])
    value, gradient = guidance(network, SCHEDULE, prediction, _range(arrays), codes, t, noise, mode, scale)
    assert value.item() == pytest.approx(float(arrays[f"prior_{name}"]), rel=2e-5)
    expected = arrays[f"prior_grad_{name}"][:, 0]
    np.testing.assert_allclose(gradient.numpy(), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("objective, prediction", OBJECTIVES.items())
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_golden_ddim_chain(golden, objective, prediction, eta):
    arrays, network = golden
    noises = iter(torch.as_tensor(arrays["ddim_noise"]))
    with torch.no_grad():
        denoise = as_denoiser(network, prediction, clip=1.0)
        start = torch.as_tensor(arrays["ddim_start"])
        found = sample_ddim(denoise, start, SCHEDULE.path_of(5), eta, lambda: next(noises))
    codes = _range(arrays).denormalise(found)
    np.testing.assert_allclose(codes.numpy(), arrays[f"ddim_eta{eta}_{objective}"], atol=1e-4)


@pytest.mark.parametrize("objective, prediction", OBJECTIVES.items())
def test_golden_ancestral_chain(golden, objective, prediction):
    arrays, network = golden
    noises = iter(torch.as_tensor(arrays["ancestral8_noise"]))
    with torch.no_grad():
        denoise = as_denoiser(network, prediction, clip=1.0)
        start = torch.as_tensor(arrays["ancestral8_start"])
        found = sample_ancestral(denoise, start, cosine_schedule(8).path_of(8), lambda: next(noises))
    codes = _range(arrays).denormalise(found)
    np.testing.assert_allclose(codes.numpy(), arrays[f"ancestral8_{objective}"], atol=1e-4)


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
