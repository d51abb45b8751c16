import torch

from davatar.avatar.codec import PatchCodec


def fitted() -> tuple[PatchCodec, torch.Tensor]:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codec = PatchCodec()
    codec.fit(images)
    return codec, images


def test_decoding_undoes_encoding():
    codec, images = fitted()
    torch.testing.assert_close(codec.decode(codec.encode(images)), images, atol=1e-5, rtol=0)


def test_latents_have_unit_variance():
    codec, images = fitted()
    latents = codec.encode(images)
    assert abs(latents.square().mean() - 1) < 1e-3 and latents.shape == (6, 48, 4, 4)


def test_white_noise_stays_white_on_the_pixel_grid():
    codec, _ = fitted()
    noise = torch.randn(64, 48, 4, 4, generator=torch.Generator().manual_seed(1))
    pixels = codec.unrotate(noise)
    torch.testing.assert_close(pixels.square().sum(), noise.square().sum(), rtol=1e-5, atol=0)


def test_two_fits_give_the_same_basis():
    codec, images = fitted()
    again = PatchCodec()
    again.fit(images.flip(0))  # the same patches in another order
    torch.testing.assert_close(codec.rotation, again.rotation, atol=1e-4, rtol=0)
