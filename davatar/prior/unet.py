"""The published 1-D U-Net over codes (spec dphm 4.1).

A code is a signal of length L with one channel; time is an integer noise index. Module names equal
the published state keys, so published weights load as they are. The order of a code's numbers
matters here: convolutions see neighbours. What the output means is said elsewhere
(`diffusion.parameterization`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from davatar.core.errors import ConfigError, DataError

HEADS = 4
HEAD_WIDTH = 32


class Sinusoids(nn.Module):
    """[B] times -> [B, width]: sines, then cosines, of frequencies falling from 1 to 1/10000."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(torch.arange(half, device=t.device, dtype=t.dtype) * (-math.log(10000) / (half - 1)))
        angle = t[:, None] * frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class RMSNorm(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.g * math.sqrt(x.shape[1])


class Block(nn.Module):
    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.proj = nn.Conv1d(inside, outside, 3, padding=1)
        self.norm = nn.GroupNorm(8, outside)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        x = self.norm(self.proj(x))
        return F.silu(x if scale is None else x * (scale + 1) + shift)


class ResBlock(nn.Module):
    def __init__(self, inside: int, outside: int, time_width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * outside))
        self.block1 = Block(inside, outside)
        self.block2 = Block(outside, outside)
        self.res_conv = nn.Conv1d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.mlp(time)[:, :, None].chunk(2, dim=1)
        return self.block2(self.block1(x, scale, shift)) + self.res_conv(x)


class LinearAttention(nn.Module):
    """Attention without a matrix of positions: keys gather the values into one small context per head."""

    def __init__(self, channels: int):
        super().__init__()
        self.to_qkv = nn.Conv1d(channels, 3 * HEADS * HEAD_WIDTH, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv1d(HEADS * HEAD_WIDTH, channels, 1), RMSNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _heads(self.to_qkv(x))
        context = torch.einsum("bhdn,bhen->bhde", k.softmax(dim=-1), v)
        out = torch.einsum("bhde,bhdn->bhen", context, q.softmax(dim=-2) * HEAD_WIDTH**-0.5)
        return self.to_out(out.flatten(1, 2))


class Attention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.to_qkv = nn.Conv1d(channels, 3 * HEADS * HEAD_WIDTH, 1, bias=False)
        self.to_out = nn.Conv1d(HEADS * HEAD_WIDTH, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _heads(self.to_qkv(x))
        weights = torch.einsum("bhdi,bhdj->bhij", q * HEAD_WIDTH**-0.5, k).softmax(dim=-1)
        return self.to_out(torch.einsum("bhij,bhdj->bhdi", weights, v).flatten(1, 2))


def _heads(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, 3 * heads * width, N] -> three of [B, heads, width, N]."""
    return tuple(part.unflatten(1, (HEADS, HEAD_WIDTH)) for part in qkv.chunk(3, dim=1))


class PreNorm(nn.Module):
    def __init__(self, channels: int, fn: nn.Module):
        super().__init__()
        self.norm = RMSNorm(channels)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class Residual(nn.Module):
    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


class UNet1d(nn.Module):
    """
    Args:
        dim: width D of the first level; a multiple of 8.
        dim_mults: width of each level as a multiple of D.
        channels: of input and output.
        self_condition: the input is joined by an earlier estimate (zeros when absent).
    """

    def __init__(
        self, dim: int, dim_mults: tuple[int, ...] = (1, 2, 4, 8), channels: int = 1, self_condition: bool = False
    ):
        super().__init__()
        if dim < 8 or dim % 8 or not dim_mults:
            raise ConfigError(f"U-Net width {dim}, multiples {list(dim_mults)}: the width is a multiple of 8")
        self.channels, self.self_condition = channels, self_condition
        self.stride = 2 ** (len(dim_mults) - 1)
        widths = [dim] + [dim * m for m in dim_mults]
        time = 4 * dim
        self.init_conv = nn.Conv1d(channels * (2 if self_condition else 1), dim, 7, padding=3)
        self.time_mlp = nn.Sequential(Sinusoids(dim), nn.Linear(dim, time), nn.GELU(), nn.Linear(time, time))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        for k, (inside, outside) in enumerate(pairs):
            last = k == len(pairs) - 1
            shrink = nn.Conv1d(inside, outside, 3, padding=1) if last else nn.Conv1d(inside, outside, 4, 2, 1)
            attend = Residual(PreNorm(inside, LinearAttention(inside)))
            blocks = [ResBlock(inside, inside, time), ResBlock(inside, inside, time), attend, shrink]
            self.downs.append(nn.ModuleList(blocks))
        middle = widths[-1]
        self.mid_block1 = ResBlock(middle, middle, time)
        self.mid_attn = Residual(PreNorm(middle, Attention(middle)))
        self.mid_block2 = ResBlock(middle, middle, time)
        for k, (inside, outside) in enumerate(reversed(pairs)):
            grow = nn.Conv1d(outside, inside, 3, padding=1)
            if k < len(pairs) - 1:
                grow = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), grow)
            attend = Residual(PreNorm(outside, LinearAttention(outside)))
            blocks = [ResBlock(outside + inside, outside, time) for _ in range(2)]
            self.ups.append(nn.ModuleList([*blocks, attend, grow]))
        self.final_res_block = ResBlock(2 * dim, dim, time)
        self.final_conv = nn.Conv1d(dim, channels, 1)

    def forward(self, x: Tensor, t: Tensor, earlier: Tensor | None = None) -> Tensor:
        """
        Args:
            x: [B, channels, L] noisy, normalised codes; L a multiple of 2^(levels - 1).
            t: [B] time index.
            earlier: like `x`, only for a self-conditioned network.

        Raises:
            DataError: L does not divide.
        """
        if x.shape[-1] % self.stride:
            raise DataError(f"codes of length {x.shape[-1]} cannot be halved {len(self.downs) - 1} times")
        if self.self_condition:
            x = torch.cat([torch.zeros_like(x) if earlier is None else earlier, x], dim=1)
        x = self.init_conv(x)
        first, skips = x, []
        time = self.time_mlp(t.to(x.dtype))
        for one, two, attend, shrink in self.downs:
            x = one(x, time)
            skips.append(x)
            x = attend(two(x, time))
            skips.append(x)
            x = shrink(x)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, time)), time)
        for one, two, attend, grow in self.ups:
            x = one(torch.cat([x, skips.pop()], dim=1), time)
            x = two(torch.cat([x, skips.pop()], dim=1), time)
            x = grow(attend(x))
        return self.final_conv(self.final_res_block(torch.cat([x, first], dim=1), time))
