"""How the expression code enters a denoiser: a few tokens that its feature maps attend to.

`ExpressionTokens` is the published projection (spec diffusion-avatars 5.5). `TokenAttention` is the small
avatar's cross-attention, written as two matrix products: fused CPU attention is slow with four keys.
"""

from __future__ import annotations

import torch
from torch import nn


class ExpressionTokens(nn.Linear):
    """Code [B, De] -> tokens [B, N, width]: one linear layer, no activation."""

    def __init__(self, code_size: int, tokens: int, width: int):
        super().__init__(code_size, tokens * width)
        self.tokens = tokens

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        return super().forward(code).reshape(len(code), self.tokens, -1)


class TokenAttention(nn.Module):
    """Feature map [B, C, H, W] + what its pixels read from tokens [B, N, Dt]; starts near the identity.

    Not at it: an output that starts at zero wakes so slowly that short trainings ignore the code.
    """

    def __init__(self, channels: int, token_width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(token_width, channels, bias=False)
        self.value = nn.Linear(token_width, channels, bias=False)
        self.out = nn.Linear(channels, channels)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        query, key, value = map(self._split, (self.query(pixels), self.key(tokens), self.value(tokens)))
        weights = (query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5).softmax(-1)
        read = self.out((weights @ value).transpose(1, 2).reshape(batch, height * width, channels))
        return x + read.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
