"""The network of the CPU avatar: 128 x 128 pixels, two million parameters.

    head points -> triplane features + geometry -> point stage -> full-resolution map H
    H -> condition encoder -> 64 x 64 and 32 x 32 maps            (once per frame)
    noisy patch latent + 32 x 32 map -> U-Net, expression tokens    (once per sampling step)
    U-Net + 64 x 64 map + H + noisy picture -> head -> picture, composited over the head's coverage

Pictures are in -1..1; sizes of maps below are for 128 x 128. What the output means, the noise and the
loss are `tiny`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from davatar.avatar.conditioning import PointBatch
from davatar.avatar.tokens import ExpressionTokens, TokenAttention

GEOMETRY = 8  # channels of PointBatch.geometry


@dataclass(frozen=True)
class TinySettings:
    """Sizes of the network; stored with the weights."""

    resolution: int = 128  # pixels; a multiple of 16
    plane_size: int = 128  # texels per side of each plane
    plane_channels: int = 8
    expression_size: int = 53  # morphable expression weights
    point_width: int = 32
    map_width: int = 16
    width: int = 48  # of the U-Net at a quarter of the resolution; twice that below
    tokens: int = 4
    token_width: int = 64
    noisy_picture: bool = True  # the full-resolution head sees the noisy picture too


class TimeEmbedding(nn.Sequential):
    """t [B] in 0..1 -> [B, 128]."""

    def __init__(self, width: int = 128):
        super().__init__(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.register_buffer("frequency", torch.pi * 2.0 ** torch.linspace(-1, 5, 16), persistent=False)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        phase = t[:, None] * self.frequency
        return super().forward(torch.cat([phase.cos(), phase.sin()], 1))


class Modulated(nn.Module):
    """x -> x (1 + scale) + shift per channel, both read from the time embedding; starts as the identity."""

    def __init__(self, channels: int, time: int = 128):
        super().__init__()
        self.linear = nn.Linear(time, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        scale, shift = self.linear(time)[..., None, None].chunk(2, 1)
        return x * (1 + scale) + shift


class Pointwise(nn.Linear):
    """A 1 x 1 convolution as one matrix product over channels-last pixels: the CPU convolution is slow here."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Enlarge(nn.Module):
    """[B, C, H, W] -> [B, C', 2 H, 2 W]: a 1 x 1 convolution whose outputs are four neighbouring pixels."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.linear = nn.Linear(inside, 4 * outside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = x.shape
        four = self.linear(x.permute(0, 2, 3, 1)).reshape(batch, height, width, 2, 2, -1)
        return four.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.time = Modulated(channels)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.time(self.norm2(y), time)))


class PointStage(nn.Module):
    """Features, geometry and expression of every head point -> the map H [B, 16, H, W], 0 off the head."""

    def __init__(self, settings: TinySettings):
        super().__init__()
        self.point = nn.Linear(3 * settings.plane_channels + GEOMETRY, settings.point_width)
        self.expression = nn.Linear(settings.expression_size, settings.point_width, bias=False)
        self.out = nn.Linear(settings.point_width, settings.map_width)
        nn.init.zeros_(self.expression.weight)

    def forward(self, features: torch.Tensor, batch: PointBatch) -> torch.Tensor:
        told = self.expression(batch.expression)
        told = torch.cat([row.expand(count, -1) for row, count in zip(told, batch.counts, strict=True)])
        points = F.silu(self.out(F.silu(self.point(torch.cat([features, batch.geometry], 1)) + told)))
        frames, _, height, width = batch.coverage.shape
        full = points.new_zeros(frames * height * width, points.shape[1]).index_copy(0, batch.pixel, points)
        return full.reshape(frames, height, width, -1).permute(0, 3, 1, 2)


class ConditionEncoder(nn.Module):
    """H -> maps at half and at a quarter of the resolution: the part that does not depend on the noise."""

    def __init__(self, settings: TinySettings):
        super().__init__()
        narrow, width = settings.width // 2, settings.width
        self.to_half = nn.Conv2d(settings.map_width, narrow, 3, stride=2, padding=1)
        self.same = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.to_quarter = nn.Conv2d(narrow, width, 3, stride=2, padding=1)

    def forward(self, full: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = F.silu(self.same(F.silu(self.to_half(full))))
        return half, F.silu(self.to_quarter(half))


class TinyUNet(nn.Module):
    """Noisy latent + quarter map -> features [B, 64, 32, 32]."""

    def __init__(self, settings: TinySettings):
        super().__init__()
        w, w2, token = settings.width, 2 * settings.width, settings.token_width
        self.noisy = nn.Conv2d(48, w, 3, padding=1)
        nn.init.zeros_(self.noisy.weight)
        self.down0 = Residual(w)
        self.reduce0 = nn.Conv2d(w, w2, 3, stride=2, padding=1)
        self.down1 = Residual(w2)
        self.reduce1 = nn.Conv2d(w2, w2, 3, stride=2, padding=1)
        self.middle, self.read1, self.middle_again = Residual(w2), TokenAttention(w2, token), Residual(w2)
        self.enlarge1 = Enlarge(w2, w2)
        self.up1, self.read2 = Residual(w2), TokenAttention(w2, token)
        self.enlarge0 = Enlarge(w2, w)
        self.up0 = Residual(w)

    def forward(
        self, noisy: torch.Tensor, quarter: torch.Tensor, tokens: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        x0 = self.down0(quarter + self.noisy(noisy), time)
        x1 = self.down1(self.reduce0(x0), time)
        x = self.middle_again(self.read1(self.middle(self.reduce1(x1), time), tokens), time)
        x = self.read2(self.up1(self.enlarge1(x) + x1, time), tokens)
        return self.up0(self.enlarge0(x) + x0, time)


class FullResolutionHead(nn.Module):
    """U-Net features, half map, H and the noisy picture -> RGB correction at full resolution."""

    def __init__(self, settings: TinySettings):
        super().__init__()
        narrow, fine = settings.width // 2, settings.map_width
        self.to_half = Enlarge(settings.width, narrow)
        self.mix = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.to_full = Enlarge(narrow, fine)
        self.local = Pointwise(settings.map_width, fine)
        self.noisy_picture = settings.noisy_picture
        if settings.noisy_picture:
            self.picture, self.picture_time = nn.Conv2d(3, fine, 3, padding=1), Modulated(fine)
            self.again = nn.Conv2d(fine, fine, 3, padding=1)
            for zero in (self.picture, self.again):
                nn.init.zeros_(zero.weight)
                nn.init.zeros_(zero.bias)
        self.fine = nn.Conv2d(fine, fine, 3, padding=1)
        self.rgb = Pointwise(fine, 3)
        nn.init.zeros_(self.rgb.weight)
        nn.init.zeros_(self.rgb.bias)

    def forward(
        self, x: torch.Tensor, half: torch.Tensor, full: torch.Tensor, picture: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        x = F.silu(self.mix(F.silu(self.to_half(x) + half)))
        x = self.to_full(x) + self.local(full)
        if self.noisy_picture:
            x = x + self.picture_time(self.picture(picture), time)
        x = F.silu(self.fine(F.silu(x)))
        if self.noisy_picture:
            x = x + self.again(x)
        return self.rgb(x)


@dataclass(frozen=True)
class Encoded:
    """What is computed once per frame."""

    full: torch.Tensor  # H, [B, 16, H, W]
    half: torch.Tensor  # [B, 32, H/2, W/2]
    quarter: torch.Tensor  # [B, 64, H/4, W/4]
    base: torch.Tensor  # [B, 3, H, W] picture in -1..1 before the head's correction
    tokens: torch.Tensor  # [B, 4, 64]


class TinyNetwork(nn.Module):
    """The raw network: it knows no schedule and no loss."""

    def __init__(self, settings: TinySettings):
        super().__init__()
        self.points = PointStage(settings)
        self.encoder = ConditionEncoder(settings)
        self.tokens = ExpressionTokens(settings.expression_size, settings.tokens, settings.token_width)
        self.time = TimeEmbedding()
        self.unet = TinyUNet(settings)
        self.head = FullResolutionHead(settings)
        self.colour = Pointwise(settings.map_width, 3)

    def token_parameters(self) -> list[nn.Parameter]:
        """Of the branch that the expression tokens take: their projection and what reads them."""
        return [*self.tokens.parameters(), *self.unet.read1.parameters(), *self.unet.read2.parameters()]

    def encode(self, features: torch.Tensor, batch: PointBatch) -> Encoded:
        full = self.points(features, batch)
        half, quarter = self.encoder(full)
        base = (1 - batch.coverage) + batch.coverage * self.colour(full)
        return Encoded(full, half, quarter, base, self.tokens(batch.expression))

    def forward(self, encoded: Encoded, latent: torch.Tensor, picture: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Noisy patch latent [B, 48, h, w] (the same noise as `picture` [B, 3, H, W]) at t [B] -> picture in -1..1."""
        time = self.time(t)
        x = self.unet(latent, encoded.quarter, encoded.tokens, time)
        return encoded.base + self.head(x, encoded.half, encoded.full, picture, time)
