import numpy as np
import pytest
import torch

from davatar.checks.verify.dphm_unet import CHECKS
from davatar.core.errors import ConfigError, DataError
from davatar.prior.network import NetworkConfig, build_network
from davatar.prior.unet import UNet1d


def test_conformance_vector(wave, wave_weights):
    """Spec dphm 10.2 (float64, the printed digits)."""
    network = wave_weights(UNet1d(8, (1, 2)))
    assert len(network.state_dict()) == 160 and min(network.state_dict()) == "downs.0.0.block1.norm.bias"
    x = torch.as_tensor(wave(16, 0.9, 0.3, 1.0).reshape(2, 1, 8))
    t = torch.tensor([3, 700])
    sinusoids = [0.543970523, 0.879683044, 0.998035497, 0.069942847, -0.839104326, 0.475560451, 0.062650985, 0.997551]
    assert network.time_mlp[0](t.double())[1].tolist() == pytest.approx(sinusoids, rel=1e-5, abs=1e-7)
    time = [-0.439196784, -0.573473391, -0.418016409, -0.037958902]
    assert network.time_mlp(t.double())[0, :4].tolist() == pytest.approx(time, rel=1e-5)
    expected = [
        [
            -0.374780581,
            -0.428103444,
            -0.413730256,
            -0.533971007,
            -0.503415929,
            -0.694098323,
            -0.807222415,
            -0.626867295,
        ],
        [-0.171980421, -0.392516502, -0.488811922, -0.643471614, -0.827952607, -0.815850575, -0.654409, -0.342023314],
    ]
    np.testing.assert_allclose(network(x, t)[:, 0].detach().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["small", "selfcond", "small4", "expr200_real"])
def test_golden_outputs_and_gradients(recomputed, shared, name):
    recomputed(CHECKS, shared / "golden" / "dphm" / f"C_unet_{name}.npz")


@pytest.mark.parametrize("length, dim", [(1344, 64), (200, 64), (1544, 128)])
def test_published_sizes(length, dim):
    with torch.device("meta"):
        network = UNet1d(dim)
    count = sum(p.numel() for p in network.parameters())
    assert count == {64: 14_861_569, 128: 57_330_177}[dim] and length % network.stride == 0


def test_published_keys(recomputed, shared):
    recomputed(CHECKS, shared / "golden" / "dphm" / "C_unet_real_shapes.json")


def test_length_must_be_divisible():
    with pytest.raises(DataError, match="length 53"):
        UNet1d(8, (1, 2))(torch.zeros(1, 1, 53), torch.tensor([0]))
    with pytest.raises(ConfigError, match="multiple of 8"):
        build_network(NetworkConfig("unet", width=8), 53)


def test_mlp_starts_as_the_exact_denoiser_of_unit_gaussian_codes():
    network = build_network(NetworkConfig("mlp", width=16, blocks=2), 5, seed=0)
    assert (network(torch.randn(3, 1, 5, generator=torch.Generator().manual_seed(0)), torch.arange(3)) == 0).all()


def test_same_seed_same_network():
    config = NetworkConfig("mlp", width=16, blocks=1)
    one, two = build_network(config, 5, seed=1), build_network(config, 5, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
