"""The published avatar with random weights: for timing, where the real base model is not at hand.

Shapes are those of Stable Diffusion 2.1, or the same blocks a twentieth as wide. What training starts at zero is
drawn as well, so that conditions and tokens change the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from davatar.avatar.frozen_base import FrozenBase
from davatar.avatar.published import PublishedAvatar
from davatar.avatar.published_settings import PublishedSettings, PublishedTraining


@dataclass(frozen=True)
class Shape:
    widths: tuple[int, int, int, int]  # of the U-Net
    heads: tuple[int, int, int, int]
    text: int
    groups: int
    decoder: tuple[int, int, int, int]  # widths of the VAE
    decoder_groups: int
    avatar: PublishedSettings


PRESETS = {
    "published": Shape(
        (320, 640, 1280, 1280), (5, 10, 20, 20), 1024, 32, (128, 256, 512, 512), 32, PublishedSettings()
    ),
    "published-small": Shape(
        (16, 24, 32, 32), (2, 3, 4, 4), 24, 8, (8, 8, 16, 16), 4,
        PublishedSettings(resolution=64, texture_size=16, texture_features=4),
    ),
}  # fmt: skip
NUDGE = 0.02  # deviation of weights that training starts at zero


def random_avatar(preset: str, device: str = "cpu", seed: int = 0) -> PublishedAvatar:
    """The same weights for the same seed and device."""
    shape = PRESETS[preset]
    with torch.random.fork_rng(devices=[] if device == "cpu" else None), torch.device(device):
        torch.manual_seed(seed)
        avatar = PublishedAvatar(shape.avatar, PublishedTraining(), random_base(shape))
        for module in avatar.modules():
            for parameter in module.parameters(recurse=False):
                if isinstance(module, nn.Conv2d | nn.Linear) and parameter.ndim > 1 and not parameter.any():
                    nn.init.normal_(parameter, std=NUDGE)
    return avatar.requires_grad_(False).eval()


def random_base(shape: Shape) -> FrozenBase:
    attention, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    unet = UNet2DConditionModel(
        sample_size=96,
        in_channels=4,
        out_channels=4,
        down_block_types=(attention, attention, attention, plain),
        up_block_types=tuple(name.replace("Down", "Up") for name in (plain, attention, attention, attention)),
        block_out_channels=shape.widths,
        layers_per_block=2,
        attention_head_dim=shape.heads,
        cross_attention_dim=shape.text,
        norm_num_groups=shape.groups,
        use_linear_projection=True,
        upcast_attention=True,
    )
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=shape.decoder,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=shape.decoder_groups,
    )
    return FrozenBase(unet.eval(), vae.eval(), torch.randn(1, 77, shape.text), "random weights")
