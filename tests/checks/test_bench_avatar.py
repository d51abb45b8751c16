"""The avatar's bench: both ways paint the same pictures, on small networks; no times are looked at."""

import numpy as np
import pytest
import torch

from davatar.avatar.conditioning import head_maps
from davatar.avatar.tiny import TinyAvatar, TinyTraining
from davatar.avatar.tiny_network import TinySettings
from davatar.checks.bench import avatar as bench
from davatar.checks.bench import bench as run
from davatar.checks.bench.random_base import PRESETS, random_avatar, random_base
from davatar.checks.bench.rows import Options
from davatar.core.errors import UsageError, VerificationError
from davatar.core.progress import silent

SMALL = TinySettings(
    resolution=32, plane_size=16, plane_channels=4, point_width=16, map_width=8, width=16, token_width=16
)


def ball(shift):
    row, column = (np.mgrid[:32, :32] + 0.5) / 16 - 1
    x, y = (column - shift) / 0.6, -row / 0.6
    mask = x**2 + y**2 < 1
    normal = np.stack([x, y, np.sqrt(np.maximum(1 - x**2 - y**2, 0))], -1)
    return head_maps(
        canonical=normal * 0.3, normal=normal, depth=0.8 - 0.1 * normal[..., 2], mask=mask,
        coverage=mask.astype(np.float32), expression=np.full(53, shift), world_to_camera=np.eye(3),
        world_to_reference=np.eye(3), image=np.where(mask[..., None], 0.5 + 0.4 * np.sin(7 * normal), 1.0),
    )  # fmt: skip


def test_full_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        base = random_base(PRESETS["published"])
    assert sum(p.numel() for p in base.unet.parameters()) == 865_910_724
    assert sum(p.numel() for p in base.vae.parameters()) == 83_653_863


@torch.no_grad()
def test_rows_of_the_small_avatar(monkeypatch):
    monkeypatch.setattr(bench, "STEPS", 3)
    monkeypatch.setattr(bench, "REFERENCE_STEPS", 4)
    monkeypatch.setitem(bench.TRIED_STEPS, "tiny", (1, 2))
    torch.manual_seed(0)
    avatar = TinyAvatar(SMALL, TinyTraining())
    for name, parameter in avatar.named_parameters():
        if not parameter.any() and name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.05)
    frames = [ball(shift) for shift in (-0.2, 0.1, 0.3)]
    truth = torch.from_numpy(np.stack([frame.image for frame in frames])).permute(0, 3, 1, 2).float() / 255
    with silent.task("avatar", 3) as task:
        rows = bench.tiny_rows(avatar, frames, truth, Options(seconds=0), task)
    found = {row.what: row for row in rows}
    assert found["agreement of both"].ours >= 45
    assert found["3 steps, same sampler"].ratio > 0 and "dB to the truth" in found["as shipped: 1 step, ddim"].note
    assert {"of these: condition encoder", "of these: denoiser", "ddim, 2 steps", "unipc, 1 steps"} <= found.keys()


@torch.no_grad()
def test_published_way_hoisted_batched_and_halved_paints_the_same(monkeypatch):
    monkeypatch.setattr(bench, "STEPS", 2)
    avatar = random_avatar("published-small")
    batch, noise = bench.random_batch(avatar, 2), avatar.noise(np.random.default_rng(0))
    plain = torch.cat([bench.plain_published(avatar, bench.rows_of(batch, slice(k, k + 1)), noise) for k in range(2)])
    assert not torch.allclose(plain[0], plain[1], atol=0.01), "conditions change the picture"
    assert (avatar.render(batch, noise, 2) - plain).abs().max() < 1e-5
    avatar.halve()
    halved = avatar.render(batch, noise, 2)
    assert halved.dtype == torch.float32 and bench.psnr(plain, halved) >= 45
    with pytest.raises(VerificationError, match="dB apart"):
        bench.agreement(plain, 1 - plain)


def test_presets_are_named():
    with pytest.raises(UsageError, match="published-small"):
        run("avatar", Options(preset="huge"))
    with pytest.raises(UsageError, match="use published-small"):
        run("avatar", Options(preset="published"))
