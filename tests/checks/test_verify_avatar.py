"""Fixtures of the published avatar are found by what is in them, under any name, for any widths and seeds."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from davatar.avatar.frozen_base import load_base
from davatar.avatar.published import PublishedAvatar
from davatar.avatar.published_settings import PublishedSettings, PublishedTraining
from davatar.checks.verify import avatar_data, avatar_metrics, avatar_model, avatar_sampling
from davatar.checks.verify.avatar_fixtures import avatar_of, batch_of

CHECKS = (*avatar_data.CHECKS, *avatar_model.CHECKS, *avatar_sampling.CHECKS, *avatar_metrics.CHECKS)


@pytest.fixture
def golden(shared):
    return shared / "golden" / "diffusion_avatars"


def checks_of(file):
    return [check for check in CHECKS if check.recognises(file)]


def failing(file):
    (check,) = checks_of(file)
    return [one.quantity for one in check.run(file) if not one.holds]


def test_every_fixture_has_one_check_whatever_its_name(golden, tmp_path):
    for k, file in enumerate(sorted(p for p in golden.iterdir() if p.suffix in (".npz", ".json"))):
        (check,) = checks_of(file)
        other = tmp_path / f"{file.name[0]}_{k}{file.suffix}"
        other.symlink_to(file)
        assert checks_of(other) == [check], file.name
        assert check.section == f"diffusion-avatars {file.name[0]}"
        stray = tmp_path / f"Q_{k}{file.suffix}"
        stray.symlink_to(file)
        assert checks_of(stray) == []


def test_strange_files_are_nobodys(tmp_path):
    (tmp_path / "E_list.json").write_text("[1, 2]")
    (tmp_path / "C_list.json").write_text("[]")
    (tmp_path / "E_cut.json").write_text('{"controlnet.')
    (tmp_path / "B_cut.npz").write_bytes(b"PK\x03\x04")
    np.savez(tmp_path / "B_else.npz", something=np.zeros(3))
    assert [file.name for file in tmp_path.iterdir() if checks_of(file)] == []


class Variant:
    """A base and an archive of other widths, seeds and options, and fixtures computed with them."""

    def __init__(self, golden, folder):
        self.folder, base = folder, folder / "frozen"
        for part in ("text_encoder", "tokenizer", "scheduler"):
            shutil.copytree(golden / "base" / part, base / part, copy_function=shutil.copyfile)
        torch.manual_seed(5)
        UNet2DConditionModel(
            block_out_channels=(8, 8, 16, 16), attention_head_dim=(1, 2, 2, 4), norm_num_groups=4,
            cross_attention_dim=24, use_linear_projection=True, upcast_attention=True, sample_size=6,
            down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        ).save_pretrained(base / "unet")  # fmt: skip
        AutoencoderKL(
            block_out_channels=(4, 4, 8, 8), norm_num_groups=2, layers_per_block=1,
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4,
        ).save_pretrained(base / "vae")  # fmt: skip
        settings = PublishedSettings("frozen", 48, 8, 2, expression_size=200, tokens=3)
        avatar = PublishedAvatar(settings, PublishedTraining(), load_base(str(base)))
        with torch.no_grad():
            for tensor in avatar.trained_state().values():
                tensor.add_(0.05 * torch.randn_like(tensor))  # what starts at zero must show, too
        archive = folder / "runs" / "DA-9"
        (archive / "checkpoints").mkdir(parents=True)
        torch.save(avatar.trained_state(), archive / "checkpoints" / "ckpt-7.pt")
        changes = {
            "model_config": {"diffusion_model_name": "frozen", "n_cond_channels": 17},
            "dataset_config": {
                "resolution": 48, "res_neural_textures": 8, "dim_neural_textures": 2, "include_eye_condition": False
            },
            "train_setup": {"seed": 11},
            "optimization_config": {},
        }  # fmt: skip
        for name, change in changes.items():
            values = json.loads((golden / f"models/diffusion-avatars/DA-3-ID-55/{name}.json").read_text())
            if name == "model_config":
                values["temporal_config"]["n_expression_tokens"] = 3
            (archive / f"{name}.json").write_text(json.dumps(values | change))
        self.avatar = avatar.eval()
        self.write()

    @torch.no_grad()
    def write(self):
        rng, avatar = torch.Generator().manual_seed(1), self.avatar
        given = {
            "rendered": torch.rand((2, 9, 48, 48), generator=rng) * 2 - 1,
            "mask": torch.rand((2, 1, 48, 48), generator=rng) > 0.3,
            "expression_codes": torch.randn((2, 200), generator=rng),
            "target_images": torch.rand((2, 3, 48, 48), generator=rng) * 2 - 1,
        }
        batch = batch_of(given)
        whole = avatar.conditioning(batch)
        parts = {"neural": whole[:, 9:15], "ambient": whole[:, 15:], "concat_check_sum": whole.double().sum()}
        self.save("B_7", **given, **parts)
        start = torch.randn((1, 4, 6, 6), generator=torch.Generator().manual_seed(3)).expand(2, -1, -1, -1)
        draws = torch.Generator().manual_seed(11)
        noises = torch.stack([torch.randn((2, 4, 6, 6), generator=draws) for _ in range(2)])
        path, taken = avatar.schedule.path([999, 499]), iter(noises)
        latents = [avatar.sample(batch, start, [path], lambda: next(taken))]
        taken = iter(noises)
        latents.insert(0, avatar.sample(batch, start, [path[:2]], lambda: next(taken)))
        images = (avatar.decode(latents[-1]).permute(0, 2, 3, 1) * 255).round().byte()
        run = {"n_steps": torch.tensor(2), "initial_noise": start, "latents_per_step": torch.stack(latents)}
        self.save("E_x", **run, images=images, variance_noise=noises)

    def save(self, name, **values):
        np.savez(self.folder / f"{name}.npz", **{key: value.numpy() for key, value in values.items()})


def test_a_folder_of_other_widths_verifies(golden, tmp_path):
    pytest.importorskip("transformers", reason="the text encoder needs the extra `sd`")
    variant = Variant(golden, tmp_path)
    opened = avatar_of(tmp_path)
    assert opened.latent_shape == (4, 6, 6) and opened.settings.tokens == 3
    assert failing(tmp_path / "B_7.npz") == failing(tmp_path / "E_x.npz") == []
    with np.load(tmp_path / "E_x.npz") as archive:
        changed = dict(archive)
    changed["latents_per_step"][1, 0, 0, 0, 0] += 0.01
    np.savez(tmp_path / "E_x.npz", **changed)
    assert failing(tmp_path / "E_x.npz") == ["latents of ddpm, 2 steps"]
    with torch.no_grad():
        variant.avatar.textures.ambient_texture_lookup.weight.add_(0.1)
        variant.write()
    assert failing(tmp_path / "B_7.npz") == ["features of the ambient plane", "sum of the conditioning tensor"]
