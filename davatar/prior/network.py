"""Denoising networks over codes, and how a stored description becomes one.

Both take codes [B, 1, L] with a time index [B] and return [B, 1, L]. The U-Net is the published one
(`prior.unet`); the residual MLP is for whitened coefficients, whose order carries no meaning, so that
convolution over them has nothing to find. Its output layer starts at zero, which for v-prediction is
already the exact denoiser of unit Gaussian codes: training only learns what is not Gaussian.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from davatar.core.errors import ConfigError
from davatar.prior.unet import Sinusoids, UNet1d

TIME_WIDTH = 64


@dataclass(frozen=True)
class NetworkConfig:
    type: Literal["mlp", "unet"] = "mlp"
    width: int = 256
    """Width of the hidden layers (mlp) or of the first level (unet)."""
    blocks: int = 4
    """Residual blocks (mlp)."""
    mults: tuple[int, ...] = (1, 2, 4, 8)
    """Width of each level as a multiple of the first (unet)."""

    def as_dict(self) -> dict:
        return asdict(self) | {"mults": list(self.mults)}


class _ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.time = nn.Linear(TIME_WIDTH, 2 * width)
        self.inside = nn.Linear(width, width)
        self.outside = nn.Linear(width, width)
        nn.init.zeros_(self.outside.weight)
        nn.init.zeros_(self.outside.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time).chunk(2, dim=-1)
        hidden = self.inside(self.norm(x)) * (scale + 1) + shift
        return x + self.outside(nn.functional.silu(hidden))


class ResidualMLP(nn.Module):
    def __init__(self, size: int, width: int, blocks: int):
        super().__init__()
        self.time = nn.Sequential(Sinusoids(TIME_WIDTH), nn.Linear(TIME_WIDTH, TIME_WIDTH), nn.SiLU())
        self.enter = nn.Linear(size, width)
        self.blocks = nn.ModuleList(_ResidualBlock(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """[B, 1, L], [B] -> [B, 1, L]."""
        time = self.time(t.to(x.dtype))
        hidden = self.enter(x[:, 0])
        for block in self.blocks:
            hidden = block(hidden, time)
        return self.leave(self.norm(hidden))[:, None]


def build_network(config: NetworkConfig, size: int, seed: int | None = None) -> nn.Module:
    """A fresh network for codes of `size` numbers; the same seed gives the same weights.

    Raises:
        ConfigError: sizes that no network can have.
    """
    if config.width < 1 or config.blocks < 1 or size < 1:
        raise ConfigError(f"network of width {config.width} with {config.blocks} blocks over {size} numbers")
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        if config.type == "unet":
            stride = 2 ** (len(config.mults) - 1)
            if size % stride:
                needs = f"a U-Net of {len(config.mults)} levels needs codes of a multiple of {stride}, not {size}"
                raise ConfigError(needs, mend="choose fewer levels (network.mults) or the mlp")
            return UNet1d(config.width, tuple(config.mults))
        if config.type == "mlp":
            return ResidualMLP(size, config.width, config.blocks)
    raise ConfigError(f"network type {config.type!r}, expected mlp or unet")
