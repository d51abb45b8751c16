"""How pictures are computed, on the published kind with random weights: what may change them, and how much."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from davatar.avatar.computing import Computing
from davatar.avatar.precision import for_painting
from davatar.checks.bench.avatar import psnr, random_batch
from davatar.checks.bench.random_base import random_avatar
from davatar.core.errors import DataError, MissingError

STEPS = 2


@pytest.fixture
def avatar():
    return random_avatar("published-small")


def painted(avatar):
    return avatar.render(random_batch(avatar, 2), avatar.noise(np.random.default_rng(0)), STEPS)


@pytest.mark.parametrize(
    "wanted, kind, device, trained, compat, expected",
    [
        ("auto", "published", "cuda", "float32", False, torch.float16),
        ("auto", "published", "cuda:1", "bfloat16", False, torch.float16),
        ("auto", "published", "cuda", "float32", True, torch.float32),
        ("auto", "published", "cpu", "bfloat16", False, torch.float32),
        ("float16", "published", "cuda", "auto", True, torch.float16),
        ("float32", "published", "cuda", "auto", False, torch.float32),
        ("auto", "tiny", "cpu", "float32", False, torch.float32),
        ("auto", "tiny", "cpu", "bfloat16", False, torch.bfloat16),
        ("float32", "tiny", "cpu", "bfloat16", False, torch.float32),
    ],
)
def test_one_rule_says_which_precision(wanted, kind, device, trained, compat, expected):
    assert for_painting(wanted, kind, device, trained, compat) is expected


@torch.no_grad()
def test_a_processor_computes_as_before_unless_asked(avatar):
    plain = painted(avatar)
    assert Computing().prepare(avatar, trained="bfloat16") == {"precision": "float32"}
    assert torch.equal(painted(avatar), plain)
    assert Computing(precision="bfloat16").prepare(avatar) == {"precision": "bfloat16"}
    assert avatar.unet.dtype == avatar.vae.dtype == torch.bfloat16
    half = painted(avatar)
    assert half.dtype == torch.float32 and 30 < psnr(half, plain) < 90


def small_decoder(folder, **changes):
    torch.manual_seed(0)
    sizes = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    decoder = AutoencoderTiny(**sizes | blocks | changes)
    decoder.save_pretrained(folder)
    return decoder.eval()


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_small_decoder_reads_latents_on_its_own_scale(avatar, tmp_path, scale):
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    decoder = small_decoder(tmp_path, scaling_factor=scale)
    own = avatar.decode(latents)
    told = Computing(preview_decoder=tmp_path).prepare(avatar)
    expected = (decoder.decode(latents / scale).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(avatar.decode(latents), expected, atol=1e-6, rtol=0)
    assert expected.shape == own.shape == (3, 3, 64, 64) and (expected - own).abs().max() > 0.05
    assert len(told["preview_decoder"]) > 8 and not any("preview" in name for name in avatar.trained_state())


@torch.no_grad()
def test_a_small_decoder_is_halved_with_the_rest(avatar, tmp_path):
    small_decoder(tmp_path)
    Computing(preview_decoder=tmp_path).prepare(avatar)
    plain = painted(avatar)
    Computing(precision="bfloat16").prepare(avatar)
    assert avatar.preview_decoder.dtype == torch.bfloat16 and psnr(painted(avatar), plain) > 30


def test_what_is_wrong_with_a_small_decoder_is_said(avatar, tmp_path):
    absent = Computing(preview_decoder=tmp_path / "taesd")
    with pytest.raises(MissingError, match=r"taesd: .*lacks config.json \(copy config.json and .* madebyollin/taesd"):
        absent.prepare(avatar)
    small_decoder(tmp_path / "taesd")
    weights = tmp_path / "taesd" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(DataError, match="taesd: is not a readable small decoder"):
        absent.prepare(avatar)
    weights.unlink()
    with pytest.raises(MissingError, match="lacks diffusion_pytorch_model.safetensors"):
        absent.prepare(avatar)
    small_decoder(tmp_path / "taef1", latent_channels=16)
    with pytest.raises(DataError, match="16 channels to 8 times .* have 4 and need 8"):
        Computing(preview_decoder=tmp_path / "taef1").prepare(avatar)
    (tmp_path / "taef1" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(DataError, match="describes AutoencoderKL, expected AutoencoderTiny"):
        Computing(preview_decoder=tmp_path / "taef1").prepare(avatar)
    assert avatar.preview_decoder is None


def test_a_small_decoder_has_the_tensors_of_its_config_and_no_others(avatar, tmp_path):
    small_decoder(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    name = "decoder.layers.0.weight"
    wrong = {
        f"{name} is missing": {k: v for k, v in whole.items() if k != name},
        "it has no place for extra": whole | {"extra": torch.ones(1)},
        rf"{name} is \(3,\), expected \(4, 4, 3, 3\)": whole | {name: torch.ones(3)},
    }
    for message, tensors in wrong.items():
        save_file(tensors, file)
        with pytest.raises(DataError, match=rf"model.safetensors: does not hold the small decoder .*{message}"):
            Computing(preview_decoder=tmp_path).prepare(avatar)
