"""Attention by other code: the same pictures, from every attention of the networks, or one clear sentence."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers.models import attention_processor
from diffusers.models.attention_processor import Attention, AttnProcessor

from davatar.avatar.attention import set_attention
from davatar.avatar.computing import Computing
from davatar.checks.bench.avatar import random_batch
from davatar.checks.bench.random_base import random_avatar
from davatar.core.errors import MissingError, UsageError


@pytest.fixture(scope="module")
def avatar():
    return random_avatar("published-small")


@pytest.fixture
def xformers(monkeypatch):
    """A stand-in for the package that computes plainly and counts its calls."""
    calls = []

    def attend(query, key, value, attn_bias=None, op=None, scale=None):
        calls.append(query.shape)
        return (query @ key.transpose(-1, -2) * scale).softmax(-1) @ value

    package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
    package.ops, ops.memory_efficient_attention = ops, attend
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(attention_processor, "xformers", package)
    return calls


def attentions(avatar):
    networks = (avatar.controlnet, avatar.unet)
    return [module for network in networks for module in network.modules() if isinstance(module, Attention)]


@torch.no_grad()
def predicted(avatar):
    """One evaluation of the denoiser, nothing kept from step to step."""
    batch = random_batch(avatar, 2)
    predict = avatar.denoiser(avatar.conditioning(batch), avatar.expression_codes_mlp(batch.expression))
    return predict(avatar.noise(np.random.default_rng(0), 2), torch.tensor([700, 20]))


def test_the_default_is_plain_attention(avatar):
    expected = predicted(avatar)
    for module in attentions(avatar):
        module.set_processor(AttnProcessor())
    plain = predicted(avatar)
    set_attention((avatar.controlnet, avatar.unet), "sdpa", "cpu")
    found = predicted(avatar)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(found, expected)


def test_xformers_reaches_every_attention_and_changes_nothing(avatar, xformers):
    expected = predicted(avatar)
    set_attention((avatar.controlnet, avatar.unet), "xformers", "cuda")
    torch.testing.assert_close(predicted(avatar), expected, atol=1e-5, rtol=1e-5)
    assert len(xformers) == len(attentions(avatar))  # to expression tokens too
    noise, batch = avatar.noise(np.random.default_rng(0)), random_batch(avatar, 2)
    painted = avatar.render(batch, noise, 2)  # with kept contexts
    set_attention((avatar.controlnet, avatar.unet), "sdpa", "cpu")
    torch.testing.assert_close(painted, avatar.render(batch, noise, 2), atol=1e-5, rtol=0)


def test_what_xformers_needs_is_said(avatar, xformers, monkeypatch):
    asked = Computing(attention="xformers")
    with pytest.raises(UsageError, match="xformers needs a GPU, the device is cpu .*sdpa is the default"):
        asked.prepare(avatar)
    monkeypatch.setitem(sys.modules, "xformers", None)
    with pytest.raises(MissingError, match="not installed .pip install xformers, .*sdpa is the default"):
        asked.prepare(avatar)
    monkeypatch.setattr(avatar, "training_settings", type(avatar.training_settings)(attention="xformers"))
    with pytest.raises(MissingError, match="pip install xformers"):
        avatar.lighten()
