"""The backward deformation: posed points to canonical points plus hyper coordinates (spec dphm 1.5).

Two heads on one idea. "linear" is the published network: an MLP over [x, compressed identity,
expression] whose last layer is the offset. "product" takes blend shapes seriously, as products of
place and amount: offset = sum_r f_r(place) * (G_r expression + g_r). Its first term's features do
not depend on the expression, so that a faint one-sided movement keeps its full share; a second
term, whose features do, bends the path of large movements. Codes enter layers as per-head biases:
only the point is multiplied per query. Head-model units.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from davatar.headmodel.ensemble import activation_function

if TYPE_CHECKING:
    from davatar.headmodel.nphm import NPHMConfig


def _with_bias(layer: nn.Linear, per_point: Tensor, per_head: Tensor) -> Tensor:
    """`layer` applied to [per_point [B, N, p], per_head [B, h]] without repeating the latter over points."""
    points = per_point.shape[-1]
    share = F.linear(per_head, layer.weight[:, points:], layer.bias)
    return F.linear(per_point, layer.weight[:, :points]) + share[:, None]


class LinearHead(nn.Module):
    """The published network; `layers` are lin0..lin_n, the middle one sees its input again."""

    def __init__(self, config: NPHMConfig, mean_anchors: Tensor):
        super().__init__()
        self.hyper = config.hyper
        self.compressor = nn.Linear(config.identity_size + 3 * config.anchors, config.compressed_size)
        inputs = 3 + config.compressed_size + config.expression_size
        width, count = config.deformation_width, config.deformation_layers
        self.middle = count // 2
        sizes = [inputs] + [width] * count
        sizes[self.middle] += inputs if self.middle else 0
        self.layers = nn.ModuleList(nn.Linear(n, width if k < count else 3 + config.hyper) for k, n in enumerate(sizes))
        self.activation = activation_function(config.activation)

    def forward(self, x: Tensor, identity: Tensor, expression: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets [B, N, 3] and hyper coordinates [B, N, H] at posed points [B, N, 3]."""
        codes = torch.cat([self.compressor(torch.cat([identity, anchors.flatten(1)], dim=-1)), expression], dim=-1)
        hidden = self.activation(_with_bias(self.layers[0], x, codes))
        for k, layer in enumerate(self.layers[1:], start=1):
            if k == self.middle:
                root = math.sqrt(2)
                hidden = _with_bias(layer, torch.cat([hidden, x], dim=-1) / root, codes / root)
            else:
                hidden = layer(hidden)
            if k < len(self.layers) - 1:
                hidden = self.activation(hidden)
        return hidden[..., :3], hidden[..., 3:]


class ProductHead(nn.Module):
    """Two trunks of half the depth each: the first sees place and identity, the second the expression as well."""

    def __init__(self, config: NPHMConfig, mean_anchors: Tensor):
        super().__init__()
        self.config = config
        width, codes = config.deformation_width, config.compressed_size
        half = config.deformation_layers // 2
        self.compressor = nn.Linear(config.identity_size + 3 * config.anchors, codes)
        self.register_buffer("mean_anchors", mean_anchors.clone())
        self.anchor_motion = nn.Parameter(torch.zeros(config.anchors, 3, config.expression_size))
        self.place = nn.ModuleList([nn.Linear(6 + codes, width)] + [nn.Linear(width, width) for _ in range(half - 1)])
        bent = width + 9 + codes + config.expression_size
        self.bend = nn.ModuleList([nn.Linear(bent, width)] + [nn.Linear(width, width) for _ in range(half - 1)])
        self.place_features = nn.Linear(width, config.linear_rank)
        self.bend_features = nn.Linear(width, config.product_rank + config.hyper)
        self.amount = nn.ParameterList()
        for rank in (config.linear_rank, config.product_rank):
            scale = 0.05 / math.sqrt(rank)
            self.amount.append(nn.Parameter(scale * torch.randn(rank, 3, config.expression_size + 1)))
        self.activation = activation_function(config.activation)

    def _prewarp(self, x: Tensor, anchors: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """x without the identity's and without the expression's motion of the anchors around it, [B, N, 3] each."""
        scale = -0.5 / self.config.prewarp_std**2
        square = (anchors**2).sum(-1)[:, None] - 2 * x @ anchors.transpose(1, 2)  # |x|^2 cancels in the softmax
        pull = torch.softmax(scale * square, dim=-1)
        moved = torch.einsum("kce,be->bkc", self.anchor_motion, expression)
        shift = pull @ torch.cat([anchors - self.mean_anchors, moved], dim=-1)
        on_mean = x - shift[..., :3]
        return on_mean, on_mean - shift[..., 3:]

    def forward(self, x: Tensor, identity: Tensor, expression: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets [B, N, 3] and hyper coordinates [B, N, H] at posed points [B, N, 3]."""
        codes = self.compressor(torch.cat([identity, anchors.flatten(1)], dim=-1))
        on_mean, at_rest = self._prewarp(x, anchors, expression)
        hidden = self.activation(_with_bias(self.place[0], torch.cat([x, on_mean], dim=-1), codes))
        for layer in self.place[1:]:
            hidden = self.activation(layer(hidden))
        first = self.place_features(hidden)
        both = torch.cat([codes, expression], dim=-1)
        bent = self.activation(_with_bias(self.bend[0], torch.cat([hidden, x, on_mean, at_rest], dim=-1), both))
        for layer in self.bend[1:]:
            bent = self.activation(layer(bent))
        second, hyper = self.bend_features(bent).split([self.config.product_rank, self.config.hyper], dim=-1)
        amount = F.pad(expression, (0, 1), value=1.0)
        offset = first @ torch.einsum("rce,be->brc", self.amount[0], amount)
        return offset + second @ torch.einsum("rce,be->brc", self.amount[1], amount), hyper


def make_deformation(config: NPHMConfig, mean_anchors: Tensor) -> nn.Module:
    return {"linear": LinearHead, "product": ProductHead}[config.head](config, mean_anchors)
