import numpy as np
import pytest
import torch

from davatar.avatar.texture import BOX, PlaneTextures, Triplanes, sample_shared, sample_wrapped


@pytest.fixture(scope="module")
def golden(shared):
    return np.load(shared / "golden" / "diffusion_avatars" / "B_lookup.npz")


def test_plain_lookup_wraps_like_the_published_one(golden):
    uv = torch.from_numpy(golden["uv_cond"][:, :2]).permute(0, 2, 3, 1)
    found = sample_wrapped(torch.from_numpy(golden["plain_tex"]), (uv + 1) / 2)
    found = found * torch.from_numpy(golden["mask"])
    np.testing.assert_allclose(found, golden["plain_out"], atol=2e-6)  # float32 on coordinates beyond one period


def test_triplane_and_ambient_lookup_are_the_published_ones(golden):
    textures = PlaneTextures(2, 7, 3)
    names = {
        "neural_texture_lookup_uv": "plane_uv",
        "neural_texture_lookup_uw": "plane_uw",
        "neural_texture_lookup_vw": "plane_vw",
        "ambient_texture_lookup": "ambient_tex",
    }
    for own, theirs in names.items():
        getattr(textures, own).weight.data = torch.from_numpy(golden[theirs].reshape(2, -1))
    arrays = [torch.from_numpy(golden[name]) for name in ("uv_cond", "ambient_cond")]
    mask = torch.from_numpy(golden["mask"][:, 0])
    planes, ambient = textures(*arrays, mask, torch.arange(2))
    np.testing.assert_allclose(planes.detach(), golden["triplane_out"], atol=2e-6)
    np.testing.assert_allclose(ambient.detach(), golden["ambient_out"], atol=2e-6)


def test_lookup_vector_of_the_specification():
    texture = torch.sin(0.7 * torch.arange(32.0)).reshape(1, 4, 4, 2)
    found = sample_wrapped(texture, torch.tensor([[[[0.0, 0.75]]]]))
    np.testing.assert_allclose(found[0, :, 0, 0], [-0.1817427, -0.42219546], atol=1e-6)


def test_points_outside_the_box_take_the_border():
    planes = Triplanes(1, 4, 8)
    low, high = torch.tensor(BOX).T
    outside = torch.stack([high + 1, low - 1])
    torch.testing.assert_close(planes(outside), planes(torch.stack([high, low])))


def test_planes_tell_axes_apart():
    planes = Triplanes(1, 1, 8)
    ramp = torch.linspace(-1, 1, 8)
    with torch.no_grad():
        planes.planes[0].copy_(ramp.expand(3, 1, 8, 8))  # rises with the first named coordinate of each plane
    low, high = torch.tensor(BOX).T
    center = (low + high) / 2
    right = center + torch.tensor([0.2, 0.0, 0.0])
    xy, xz, yz = (planes(right[None]) - planes(center[None]))[0]
    assert xy > 0 and xz > 0 and abs(yz) < 1e-6


def test_the_shared_texture_is_read_as_its_copies_are():
    """Values and gradients; coordinates reach over several periods."""
    torch.manual_seed(0)
    texture = torch.randn(7, 7, 3, dtype=torch.float64, requires_grad=True)
    coordinates = (torch.rand(2, 5, 4, 2, dtype=torch.float64) * 5 - 2.5).requires_grad_()
    shared = sample_shared(texture, coordinates)
    plain = sample_wrapped(texture.expand(2, -1, -1, -1), coordinates)
    torch.testing.assert_close(shared, plain)
    weight = torch.randn_like(plain)
    for one, other in zip(
        *(torch.autograd.grad((found * weight).sum(), (texture, coordinates)) for found in (shared, plain)), strict=True
    ):
        torch.testing.assert_close(one, other)
