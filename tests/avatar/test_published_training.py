"""What training the published kind on small hardware changes, and what it does not: on a base of random weights."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from davatar.avatar.draws import Draws
from davatar.avatar.expression_block import ExpressionBlock
from davatar.avatar.frozen_base import FrozenBase
from davatar.avatar.memory import expected_memory, learnt_numbers
from davatar.avatar.model import new_avatar
from davatar.avatar.published import PublishedAvatar
from davatar.avatar.published_settings import PublishedSettings, PublishedTraining
from davatar.avatar.settings import AvatarSettings, Budget
from davatar.avatar.training import fit
from davatar.avatar.weights import read_weights
from davatar.core.errors import MissingError
from davatar.core.runs import Run
from davatar.core.settings import resolve

SIZES = PublishedSettings(resolution=64, texture_size=8, texture_features=2, expression_size=53)


def base() -> FrozenBase:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8, 16, 16), cross_attention_dim=12, norm_num_groups=4, attention_head_dim=2,
        layers_per_block=1, use_linear_projection=True,
    )  # fmt: skip
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(**blocks, block_out_channels=(4, 4, 8, 8), norm_num_groups=2, layers_per_block=1)
    return FrozenBase(unet.requires_grad_(False), vae.requires_grad_(False).eval(), torch.randn(1, 77, 12), "nowhere")


def made(precision: torch.dtype | None = None, **training) -> PublishedAvatar:
    avatar = PublishedAvatar(SIZES, PublishedTraining(**training), base())
    torch.manual_seed(1)
    for parameter in (p for p in avatar.parameters() if p.requires_grad):  # nothing rests at zero
        torch.nn.init.normal_(parameter, std=0.05)
    avatar.autocast = precision
    avatar.lighten()
    return avatar


@pytest.fixture(scope="module")
def large_balls(make_ball):
    return [make_ball(shift, seed, 64) for seed, shift in enumerate(np.linspace(-0.3, 0.3, 4))]


def gradients(avatar, frames):
    avatar.train()
    draws = Draws.joined([avatar.draw(1, np.random.default_rng(k)) for k in range(len(frames))])
    found = avatar(avatar.batch(frames), draws)
    found["loss"].backward()
    return found, {name: p.grad for name, p in avatar.named_parameters() if p.requires_grad}


def test_checkpointed_gradients_are_the_same(large_balls, monkeypatch):
    calls = []
    forward = ExpressionBlock.forward
    monkeypatch.setattr(ExpressionBlock, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    plain, expected = gradients(made(), large_balls[:2])
    once = len(calls)
    light, found = gradients(made(gradient_checkpointing=True), large_balls[:2])
    assert len(calls) - once > once  # blocks are computed again for the backward pass
    assert torch.equal(plain["loss"], light["loss"])
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6 * float(gradient.abs().max()), rtol=0)


def test_losses_of_frames_average_to_the_loss(large_balls):
    found, _ = gradients(made(), large_balls)
    torch.testing.assert_close(found["losses"].mean(), found["loss"])
    assert found["losses"].shape == found["levels"].shape == (4,) and 0 <= found["levels"].min()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_halves_what_is_frozen_and_changes_little(large_balls, precision):
    avatar = made(precision)
    kinds = {(p.requires_grad, p.dtype) for p in avatar.unet.parameters() if p.ndim > 1}
    assert kinds == {(True, torch.float32), (False, precision)}
    assert {p.dtype for p in avatar.vae.parameters()} == {torch.float32}
    half, _ = gradients(avatar, large_balls[:2])
    full, _ = gradients(made(), large_balls[:2])
    assert half["loss"].dtype == torch.float32
    torch.testing.assert_close(half["loss"], full["loss"], rtol=0.02, atol=0)


def test_a_picture_is_encoded_once_and_its_latents_stay_the_same(large_balls):
    avatar = made()
    encode, pictures = avatar.vae.encode, []
    avatar.vae.encode = lambda image: pictures.append(len(image)) or encode(image)
    batch, eta = avatar.batch(large_balls), torch.ones(4, 4, 8, 8)
    first = avatar.encoded(batch.image, eta, batch.keys)
    again = avatar.encoded(batch.image[2:], eta[2:], batch.keys[2:])
    assert pictures == [1] * 4 and torch.equal(first[2:], again)
    torch.testing.assert_close(avatar.encoded(batch.image, eta), first, atol=1e-5, rtol=0)


def test_textures_decay_in_the_published_way_only_when_asked(large_balls):
    for decay, moves in ((0.0, False), (1e-2, True)):
        avatar = made(texture_weight_decay=decay)
        before = avatar.textures.ambient_texture_lookup.weight.detach().clone()
        gradients(avatar, large_balls[:1])
        avatar.textures.ambient_texture_lookup.weight.grad.zero_()  # as for texels that no frame shows
        for optimizer in avatar.optimizers():
            optimizer.step()
        assert (not torch.equal(before, avatar.textures.ambient_texture_lookup.weight)) == moves


def test_eight_bit_adam_is_used_where_it_is_installed(monkeypatch):
    class AdamW8bit(torch.optim.AdamW):
        pass

    avatar = made(eight_bit_adam=True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "bitsandbytes.optim", raising=False)
    with pytest.raises(MissingError, match="pip install bitsandbytes"):
        avatar.optimizers()
    module = SimpleNamespace(AdamW8bit=AdamW8bit, __spec__=None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=module, __path__=[], __spec__=None))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    optimizers = avatar.optimizers()
    assert all(isinstance(optimizer, AdamW8bit) for optimizer in optimizers)
    assert [o.param_groups[0]["weight_decay"] for o in optimizers] == [1e-2, 1e-2, 0.0]


def settings(**changes) -> AvatarSettings:
    plain = AvatarSettings(
        kind="published", start="scratch", budget=Budget(steps=4), batch=1, accumulation=2, seed=5,
        precision="float32", log_every=1, checkpoint_every=2, preview_every=4, preview_frames=2, preview_steps=2,
        published=SIZES,
    )  # fmt: skip
    return replace(plain, **changes)


def trained(folder, frames, steps, chosen):
    folder.mkdir(exist_ok=True)
    fit(made(), frames[:2], frames[2:], Run(folder), replace(chosen, budget=Budget(steps=steps)))
    step, place = Run(folder).latest_checkpoint()
    return read_weights(place / "model.safetensors", PublishedAvatar.kind)[0]


def test_a_stopped_training_ends_with_the_same_weights(large_balls, tmp_path):
    whole = trained(tmp_path / "whole", large_balls, 4, settings())
    trained(tmp_path / "halves", large_balls, 2, settings())
    halves = trained(tmp_path / "halves", large_balls, 4, settings())
    for name in whole:
        torch.testing.assert_close(halves[name], whole[name], atol=0, rtol=0)
    last = Run(tmp_path / "whole").metrics()[-1]
    assert {"preview_psnr", "probe/expression", "probe/geometry", "gradient_norm"} <= last.keys()
    assert (tmp_path / "whole" / "previews" / "step-000004.png").is_file()


def test_expected_memory_follows_from_the_numbers_of_parameters(small):
    published = {name: resolve(AvatarSettings, name).value for name in ("sd21", "small")}
    assert learnt_numbers(published["sd21"]) == 426_316_208
    tiny = new_avatar(small)
    assert learnt_numbers(small) == sum(p.numel() for p in tiny.parameters())
    large, low = (expected_memory(published[name], 100, "cuda") for name in ("sd21", "small"))
    assert low.total < 8e9 < 25e9 < large.total < 48e9
    assert low.optimizer < large.optimizer / 3.9 and low.activations < large.activations / 100
    averaged = expected_memory(replace(small, average=0.9), 100)
    assert averaged.total - expected_memory(small, 100).total == 4 * learnt_numbers(small)
