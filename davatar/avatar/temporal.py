"""Layers that look along time, of the published code (spec diffusion-avatars 5.6); no published avatar has them.

A batch of B clips of T frames is B T feature maps [B T, C, H, W], time the fast index. Each pixel is treated alone,
so both layers see [B H W] sequences of T vectors. They start as the identity.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import nn


def to_sequences(x: torch.Tensor, frames: int) -> torch.Tensor:
    """[B T, C, H, W] -> [B H W, C, T]."""
    _, channels, height, width = x.shape
    clips = x.reshape(-1, frames, channels, height, width)
    return clips.permute(0, 3, 4, 2, 1).reshape(-1, channels, frames)


def to_maps(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[B H W, C, T] -> [B T, C, H, W]."""
    _, channels, frames = x.shape
    clips = x.reshape(-1, height, width, channels, frames)
    return clips.permute(0, 4, 3, 1, 2).reshape(-1, channels, height, width)


class TemporalConvolution(nn.Conv1d):
    """A convolution over time that replaces its input, or, at a lower resolution, adds to it.

    Args:
        downscale: maps larger than `threshold` are shrunk by this factor, and the result is enlarged and added.
    """

    def __init__(
        self,
        channels: int,
        frames: int,
        kernel: int = 3,
        padding_mode: str = "zeros",
        downscale: int = 1,
        threshold: int = 32,
        mode: str = "nearest",
    ):
        super().__init__(channels, channels, kernel, padding=kernel // 2, padding_mode=padding_mode)
        self.frames, self.downscale, self.threshold, self.mode = frames, downscale, threshold, mode
        nn.init.zeros_(self.bias)
        if downscale > 1:
            nn.init.zeros_(self.weight)
        else:
            nn.init.dirac_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.downscale == 1:
            return to_maps(super().forward(to_sequences(x, self.frames)), *x.shape[2:])
        small = shrunk(x, self.downscale, self.threshold, self.mode)
        found = to_maps(super().forward(to_sequences(small, self.frames)), *small.shape[2:])
        return x + enlarged(found, x, self.mode)


class TemporalAttention(nn.Module):
    """Each pixel attends to itself over time; the normalised sequence is read, the result is added."""

    def __init__(self, channels: int, frames: int, heads: int, groups: int = 32):
        super().__init__()
        self.frames = frames
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-5)
        # Called piece by piece rather than inherited: the published names have no level in between.
        attention = Attention(channels, heads=heads, dim_head=channels // heads)
        self.heads = heads
        self.to_q, self.to_k, self.to_v, self.to_out = (
            getattr(attention, name) for name in ("to_q", "to_k", "to_v", "to_out")
        )
        for tensor in self.to_out[0].parameters():
            nn.init.zeros_(tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequences = self.group_norm(to_sequences(x, self.frames)).transpose(1, 2)
        query, key, value = (
            layer(sequences).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        read = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return x + to_maps(self.to_out[0](read).transpose(1, 2), *x.shape[2:])


def shrunk(x: torch.Tensor, factor: int, threshold: int, mode: str) -> torch.Tensor:
    """Maps whose side exceeds `threshold`, `factor` times smaller."""
    return F.interpolate(x, scale_factor=1 / factor, mode=mode) if x.shape[-1] > threshold else x


def enlarged(x: torch.Tensor, like: torch.Tensor, mode: str) -> torch.Tensor:
    return F.interpolate(x, size=like.shape[2:], mode=mode) if x.shape != like.shape else x
