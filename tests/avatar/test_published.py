"""The published kind against its golden fixtures (shared/golden/diffusion_avatars); tolerances as suggested there."""

import copy
import shutil

import numpy as np
import pytest
import torch

from davatar.avatar.expression_block import TOKENS
from davatar.avatar.model import new_avatar
from davatar.avatar.published import ImageBatch
from davatar.avatar.published_checkpoint import open_published, published_settings
from davatar.avatar.published_sampling import trailing_times
from davatar.avatar.published_settings import PublishedSettings
from davatar.avatar.settings import AvatarSettings
from davatar.core.errors import DataError, MissingError

NETWORK = 1e-5


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "golden" / "diffusion_avatars"


@pytest.fixture(scope="module")
def avatar(folder):
    pytest.importorskip("transformers", reason="the text encoder needs the extra `sd`")
    return open_published(folder / "models/diffusion-avatars/DA-3-ID-55", base=str(folder / "base"))[0]


def tensors(folder, name):
    with np.load(folder / f"{name}.npz") as archive:
        return {k: torch.as_tensor(archive[k]) for k in archive.files if archive[k].dtype.kind in "fiub"}


@pytest.fixture(scope="module")
def batch(folder):
    found = tensors(folder, "B_conditions")
    participant = torch.zeros(2, dtype=torch.int64)
    return ImageBatch(
        found["rendered"], found["mask"][:, 0], found["expression_codes"], participant, found["target_images"]
    )


def close(found, wanted, tolerance):
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


def test_checkpoint_has_the_published_names(avatar):
    names = avatar.trained_state().keys()
    assert len(names) == 421
    assert "neural_texture_lookup_uw.weight" in names and "expression_codes_mlp.bias" in names


@torch.no_grad()
def test_conditioning_tensor(avatar, batch, folder):
    wanted = tensors(folder, "B_conditions")
    found = avatar.conditioning(batch)
    close(found[:, 9:21], wanted["neural"], NETWORK)
    close(found[:, 21:], wanted["ambient"], NETWORK)
    assert abs(found.double().sum() - wanted["concat_check_sum"]) < 1e-3


@torch.no_grad()
def test_tokens_and_prompt(avatar, batch, folder):
    wanted = tensors(folder, "B_tokens")
    close(avatar.expression_codes_mlp(batch.expression), wanted["tokens"], NETWORK)
    close(avatar.empty_prompt, wanted["empty_prompt_hidden"], NETWORK)


@torch.no_grad()
def test_transformer_block(avatar, folder):
    wanted, told = tensors(folder, "B_block"), tensors(folder, "B_tokens")
    block = avatar.unet.down_blocks[1].attentions[0].transformer_blocks[0]
    text = avatar.empty_prompt.expand(2, -1, -1)
    arguments = {"encoder_hidden_states": text, "cross_attention_kwargs": {TOKENS: told["tokens"]}}
    close(block(wanted["hidden_in"], **arguments), wanted["out"], NETWORK)


@torch.no_grad()
def test_network(avatar, batch, folder):
    wanted = tensors(folder, "B_net")
    tokens, conditioning = avatar.expression_codes_mlp(batch.expression), avatar.conditioning(batch)
    predict = avatar.denoiser(conditioning, tokens)
    close(predict(wanted["latents"], wanted["timesteps"]), wanted["unet_out"], NETWORK)
    swapped = avatar.denoiser(conditioning, tokens.flip(0))
    close(swapped(wanted["latents"], wanted["timesteps"]), wanted["unet_out_swapped_tokens"], NETWORK)
    side = int(wanted["small_crop_latent_side"])  # no multiple of 8: the way up must follow the skips' sizes
    cut = avatar.denoiser(conditioning[:, :, : 8 * side, : 8 * side], tokens)
    found = cut(wanted["latents"][:, :, :side, :side], wanted["timesteps"])
    close(found, wanted["small_crop_unet_out"], NETWORK)


def test_loss_and_gradients(avatar, batch, folder):
    wanted = tensors(folder, "E_loss")
    avatar.zero_grad()
    loss = avatar.loss(batch, wanted["vae_eps"], wanted["noise"], wanted["timesteps"])
    loss.backward()
    close(loss.detach(), wanted["loss"], NETWORK)
    own = {name.removeprefix("textures."): p.grad for name, p in avatar.named_parameters()}
    for name, gradient in wanted.items():
        if name.startswith("grad:"):
            close(own[name[5:]], gradient, 1e-4 * float(gradient.abs().max()))
    trained = {name for name, p in avatar.named_parameters() if p.requires_grad}
    assert sum(own[name.removeprefix("textures.")] is not None for name in trained) == wanted["n_params_with_grad"]
    avatar.zero_grad()


def test_three_optimisation_steps(avatar, batch, folder):
    avatar = copy.deepcopy(avatar)
    wanted = tensors(folder, "E_three_steps")
    optimizers = avatar.optimizers()
    for k in range(3):
        loss = avatar.loss(batch, wanted["vae_eps"][k], wanted["noise"][k], wanted["timesteps"][k])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(avatar.clipped(), 1.0)
        close(loss.detach().double(), wanted["losses"][k], 1e-5)
        close(norm.double(), wanted["controlnet_grad_norm_before_clip"][k], 1e-4)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    state = avatar.state_dict()
    for name, tensor in wanted.items():
        if name.startswith("after3:"):
            own = name[7:] if name[7:] in state else f"textures.{name[7:]}"
            close(state[own], tensor, 1e-5)


def test_sampling_reproduces_latents_and_pictures(avatar, batch, folder):
    wanted = tensors(folder, "E_sampling_ddpm")
    noises = iter(wanted["variance_noise"])
    path = avatar.schedule.path(trailing_times(int(wanted["n_steps"])))
    latents = avatar.sample(batch, wanted["initial_noise"], [path], lambda: next(noises))
    close(latents, wanted["latents_per_step"][-1], 1e-4)
    pictures = (avatar.decode(latents).permute(0, 2, 3, 1) * 255).round()
    assert (pictures - wanted["images"].float()).abs().max() <= 2


def test_a_frame_looks_the_same_in_any_batch(avatar, batch):
    noise = avatar.noise(np.random.default_rng(0))
    both = avatar.render(batch, noise, 2)
    second = ImageBatch(**{name: value[1:] for name, value in vars(batch).items() if value is not None})
    close(avatar.render(second, noise, 2)[0], both[1], 1e-5)


def test_schedule_is_the_published_one(avatar, folder):
    wanted = tensors(folder, "E_schedule")
    np.testing.assert_allclose(avatar.schedule.alpha_bar, wanted["alphas_cumprod_train"], atol=1e-6)
    assert trailing_times(20) == wanted["ddpm20_t_prev_a_aprev_x0coef_xcoef_var"][:, 0].int().tolist()


def test_sizes_come_from_the_archive(folder):
    found = published_settings(folder / "models/diffusion-avatars/DA-3-ID-55")
    assert found == PublishedSettings("tiny-base", 64, 16, 4, 9, 206, 4, 1) and found.condition_channels == 25


def test_absent_base_says_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setenv("DAVATAR_MODELS", str(tmp_path))
    settings = AvatarSettings(kind="published", start="scratch", published=PublishedSettings(base="nobody/no-base"))
    with pytest.raises(MissingError, match=r"nobody/no-base.*place it at .*no-base, with unet/.*vae/"):
        new_avatar(settings)


def test_a_cut_checkpoint_is_named(folder, tmp_path):
    pytest.importorskip("transformers")
    archive = tmp_path / "DA-3-ID-55"
    shutil.copytree(folder / "models/diffusion-avatars/DA-3-ID-55", archive, ignore=shutil.ignore_patterns("eval*"))
    file = archive / "checkpoints" / "ckpt-20.pt"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="ckpt-20.pt"):
        open_published(archive, base=str(folder / "base"))
    with pytest.raises(MissingError, match="no checkpoint 30"):
        open_published(archive, 30, base=str(folder / "base"))
