"""Compiled denoisers paint what plain ones do, and a machine without a compiler goes on. No code is generated here:
what is tested is that the networks can be captured, and which are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from davatar.avatar import compiling
from davatar.avatar.compiling import compile_denoiser
from davatar.avatar.frozen_base import FrozenBase
from davatar.avatar.model import new_avatar
from davatar.avatar.published import PublishedAvatar
from davatar.avatar.published_settings import PublishedSettings, PublishedTraining
from davatar.avatar.settings import Budget
from davatar.avatar.training import fit
from davatar.avatar.weights import read_weights
from davatar.core.runs import Run


class Captured:
    """A backend that runs what it is given as it stands."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return graph.forward


def broken(graph, inputs):
    raise RuntimeError("no compiler in this house\nand more")


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def published() -> PublishedAvatar:
    """The smallest U-Net that still has a transformer with expression tokens on the way down and up."""
    torch.manual_seed(0)
    attention = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    unet = UNet2DConditionModel(
        **attention, block_out_channels=(8, 8), cross_attention_dim=6, norm_num_groups=4, attention_head_dim=2,
        layers_per_block=1, use_linear_projection=True,
    )  # fmt: skip
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(**blocks, block_out_channels=(4,) * 4, norm_num_groups=2, layers_per_block=1)
    base = FrozenBase(unet, vae, torch.randn(1, 77, 6), "nowhere")
    sizes = PublishedSettings(resolution=32, texture_size=8, texture_features=2, expression_size=53)
    avatar = PublishedAvatar(sizes, PublishedTraining(), base)
    for parameter in (p for p in avatar.parameters() if p.requires_grad):  # nothing rests at zero
        torch.nn.init.normal_(parameter, std=0.05)
    return avatar.requires_grad_(False).eval()


def pictures(avatar, balls, steps=2):
    with torch.no_grad():
        return avatar.render(avatar.batch(balls[:2]), avatar.noise(np.random.default_rng(0)), steps)


@pytest.mark.parametrize("kind", ["tiny", "published"])
def test_a_compiled_denoiser_paints_the_same(kind, small, balls):
    avatar = new_avatar(small).eval() if kind == "tiny" else published()
    plain, backend = pictures(avatar, balls), Captured()
    names = list(avatar.state_dict())
    assert compile_denoiser(avatar, backend)
    before = len(backend.graphs)  # of the trial
    torch.testing.assert_close(pictures(avatar, balls), plain, atol=1e-5, rtol=0)
    made = len(backend.graphs)
    assert made - before >= (1 if kind == "tiny" else 2)
    pictures(avatar, balls)
    assert len(backend.graphs) == made  # nothing is compiled for the next frames
    assert list(avatar.state_dict()) == names


def test_without_a_compiler_it_goes_on_and_says_so(small, balls, caplog):
    avatar = new_avatar(small).eval()
    plain = pictures(avatar, balls)
    with caplog.at_level("WARNING", "davatar"):
        assert not compile_denoiser(avatar, broken)
    (line,) = caplog.messages
    assert "cannot be compiled here" in line and "no compiler in this house" in line and "and more" not in line
    assert torch.equal(pictures(avatar, balls), plain)


# The framework hides this warning of its own, which a filter turns into an error before that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_training_learns_the_same(small, balls, tmp_path, monkeypatch):
    def learnt(name, **changes):
        settings = replace(small, budget=Budget(steps=2), preview_every=2, **changes)
        (tmp_path / name).mkdir()
        fit(new_avatar(settings), balls[:4], balls[4:], Run(tmp_path / name), settings)
        _, folder = Run(tmp_path / name).latest_checkpoint()
        return read_weights(folder / "model.safetensors", "davatar tiny avatar")[0]

    backend = Captured()
    monkeypatch.setattr(compiling, "BACKEND", backend)
    plain = learnt("plain")
    assert not backend.graphs
    compiled = learnt("compiled", compile=True)
    assert len(backend.graphs) > 1
    for name, expected in plain.items():
        torch.testing.assert_close(compiled[name], expected, atol=1e-5, rtol=0)
