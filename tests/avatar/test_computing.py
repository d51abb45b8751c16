"""How pictures are computed, on the published kind with random weights: what may change them, and how much."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from davatar.avatar.computing import Computing
from davatar.avatar.precision import for_painting
from davatar.checks.bench.avatar import psnr, random_batch
from davatar.checks.bench.random_base import random_avatar

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
