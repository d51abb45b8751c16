"""The identity decoder: local members around anchors on the head, blended by distance (spec dphm 1.1-1.4).

Canonical points in, signed distances out, head-model units. A member's input is [global code, local
code, point relative to its anchor]; codes are constant over a head, so their share of the first
layer is computed once per (head, slot) and only the relative point is multiplied per query. Rows
are grouped by network, and a network nobody asks does no work.

A member whose share of the blend is below 1/64 of the number format's rounding is not asked: that changes no
digit unless its value is 64 times the others'. `skip_below` skips more, for speed: members below that share are
left out and the others' shares scaled to sum to 1. With S the sum of the shares left out (at most 8 * skip_below
with 8 neighbours) and D the largest difference between two members' values at the point, the field changes by at
most S * D. Where a member falls silent the field then jumps by at most skip_below * D; `NPHMConfig.member_cut`,
with which a model is trained, has no such jumps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from davatar.headmodel.nphm import NPHMConfig

GLOBAL_DISTANCE = 0.75  # stands in for the global member's distance
NEGLIGIBLE = 1 / 64  # of the number format's rounding: a member below this share of a blend changes no digit of it
FEW_ROWS = 8  # per network, on a processor: below, starting a product costs more than computing it
PADDING = 8  # how many times the rows that batched products may compute
_TINY = 1e-24  # under a square root, so that a query on an anchor has a gradient


def activation_function(name: str):
    """The activation called `name`; it may overwrite its argument where no gradient is recorded."""
    return {"softplus100": lambda x: F.softplus(x, beta=100), "silu": _silu, "relu": F.relu}[name]


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=not torch.is_grad_enabled())


def member_types(anchors: int, pairs: int) -> Tensor:
    """[K + 1] network of each slot: a mirrored pair shares one, the last slot is the global member."""
    slots = torch.arange(anchors + 1)
    return torch.where(slots < 2 * pairs, slots // 2, slots - pairs)


def stacked_linear(count: int, inputs: int, outputs: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights [count, outputs, inputs] and biases [count, outputs] of `count` linear layers, framework's start."""
    bound = 1 / math.sqrt(inputs)
    weight = nn.Parameter(torch.empty(count, outputs, inputs).uniform_(-bound, bound))
    return weight, nn.Parameter(torch.empty(count, outputs).uniform_(-bound, bound))


class IdentityDecoder(nn.Module):
    def __init__(self, config: NPHMConfig, mean_anchors: Tensor):
        super().__init__()
        self.config = config
        types = member_types(config.anchors, config.pairs)
        count, width = int(types.max()) + 1, config.member_width
        self.register_buffer("mean_anchors", mean_anchors.clone())
        self.register_buffer("types", types, persistent=False)
        mirrored = (torch.arange(config.anchors + 1) < 2 * config.pairs) & (torch.arange(config.anchors + 1) % 2 == 1)
        sign = torch.ones(config.anchors + 1, 3 + config.hyper)
        sign[mirrored, 0] = -1.0
        self.register_buffer("sign", sign, persistent=False)
        sizes = [config.global_size + config.local_size + 3 + config.hyper] + [width] * config.member_layers + [1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            weight, bias = stacked_linear(count, inputs, outputs)
            self.weights.append(weight)
            self.biases.append(bias)
        hidden = config.position_width
        self.position = nn.ModuleList(
            [
                nn.Linear(config.global_size, hidden),
                nn.Linear(hidden, hidden),
                nn.Linear(hidden, 3 * config.anchors),
            ]
        )
        self.activation = activation_function(config.activation)
        self.skip_below = 0.0  # share of the blend under which a member is not asked; 0: every one that counts

    def anchors(self, identity: Tensor) -> Tensor:
        """[B, Di] -> [B, K, 3] anchors in canonical space."""
        moved = identity[:, : self.config.global_size]
        for layer in self.position[:-1]:
            moved = F.relu(layer(moved))
        return self.mean_anchors + self.position[-1](moved).unflatten(-1, (-1, 3))

    def blend(self, points: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Who speaks for a point, and how loudly.

        Args:
            points: [B, N, 3] canonical points.
            anchors: [B, K, 3].

        Returns:
            slots: [B, N, M] int64, the nearest anchors ascending, then the global slot.
            weights: [B, N, M], summing to 1; zero for members under `member_cut`.
        """
        with torch.no_grad():
            square = ((points[:, :, None] - anchors[:, None]) ** 2).sum(-1)
            nearest = square.topk(self.config.neighbours, dim=-1, largest=False).indices
        batch = torch.arange(len(points), device=points.device)[:, None, None]
        distance = ((points[:, :, None] - anchors[batch, nearest]) ** 2).sum(-1).clamp_min(_TINY).sqrt()
        sigma = distance[..., :8].amax(-1, keepdim=True) / self.config.blend_std  # the 8 is upstream's, spec 1.4
        distance = torch.cat([distance, torch.full_like(distance[..., :1], GLOBAL_DISTANCE)], dim=-1)
        raw = torch.exp(-0.5 * (distance / sigma) ** 2)
        weights = raw / (raw.sum(-1, keepdim=True) + 1e-8)
        if self.config.member_cut > 0:  # shrink, not clip: the field stays continuous where a member falls silent
            weights = F.relu(weights - self.config.member_cut)
            weights = weights / weights.sum(-1, keepdim=True)
        rest = torch.full_like(nearest[..., :1], self.config.anchors)
        return torch.cat([nearest, rest], dim=-1), weights

    def members(self, rows: Tensor, first: Tensor, counts: list[int]) -> Tensor:
        """Raw outputs of single members.

        Args:
            rows: [R, 3 + H] points relative to their anchor, mirrored where the slot is; network by network.
            first: [R, W] the codes' share of each row's first layer, bias included.
            counts: how many rows ask each network, in the order of the rows.

        Returns:
            [R] float.
        """
        if len(rows) == 0:
            return rows.new_zeros(0)
        delta = self.weights[0][:, :, -rows.shape[1] :].transpose(1, 2)
        if max(counts) * len(counts) <= PADDING * len(rows) and (rows.is_cuda or len(rows) <= FEW_ROWS * len(counts)):
            return self._side_by_side(rows, first, counts, delta)
        layers = [(w.unbind(0), b.unbind(0)) for w, b in zip(self.weights[1:], self.biases[1:], strict=True)]
        out = []
        split = zip(rows.split(counts), first.split(counts), delta.unbind(0), strict=True)
        for kind, (part, share, kernel) in enumerate(split):
            if len(part) == 0:
                continue
            hidden = self.activation(torch.addmm(share, part, kernel))
            for weights, biases in layers[:-1]:
                hidden = self.activation(F.linear(hidden, weights[kind], biases[kind]))
            out.append(F.linear(hidden, layers[-1][0][kind], layers[-1][1][kind]).squeeze(-1))
        return torch.cat(out)

    def _side_by_side(self, rows: Tensor, first: Tensor, counts: list[int], delta: Tensor) -> Tensor:
        """`members` as one batched product per layer: every network gets as many rows as the busiest."""
        most, device = max(counts), rows.device
        size = torch.tensor(counts, device=device)
        shift = torch.arange(len(counts), device=device) * most - (size.cumsum(0) - size)
        place = torch.arange(len(rows), device=device) + shift.repeat_interleave(size, output_size=len(rows))

        def padded(values: Tensor) -> Tensor:
            empty = values.new_zeros(len(counts) * most, values.shape[1])
            return empty.index_copy(0, place, values).unflatten(0, (len(counts), most))

        hidden = self.activation(torch.baddbmm(padded(first), padded(rows), delta))
        for weights, biases in zip(self.weights[1:-1], self.biases[1:-1], strict=True):
            hidden = self.activation(torch.baddbmm(biases[:, None], hidden, weights.transpose(1, 2)))
        last = torch.baddbmm(self.biases[-1][:, None], hidden, self.weights[-1].transpose(1, 2))
        return last.flatten()[place]

    def _audible(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Which members are asked, bool like `weights` [B, N, M], and the weights they then have."""
        keep = weights > max(self.skip_below, NEGLIGIBLE * torch.finfo(weights.dtype).eps)
        if self.skip_below > 0:
            weights = weights * keep
            weights = weights / weights.sum(-1, keepdim=True)
        return keep, weights

    def forward(self, points: Tensor, identity: Tensor) -> Tensor:
        """Signed distance [B, N] at canonical points [B, N, 3 + H] of identities [B, Di]."""
        config, (heads, count, size) = self.config, points.shape
        anchors = self.anchors(identity)
        slots, weights = self.blend(points[..., :3], anchors)
        top, local = identity.split([config.global_size, identity.shape[-1] - config.global_size], dim=-1)
        local = local.unflatten(-1, (config.anchors + 1, config.local_size))
        kernel = self.weights[0]
        share = F.linear(top, kernel[..., : config.global_size].flatten(0, 1)).unflatten(-1, kernel.shape[:2])
        of_local = kernel[self.types][..., config.global_size : -size]
        share = (share + self.biases[0])[:, self.types] + torch.einsum("bkl,kwl->bkw", local, of_local)

        keep, weights = self._audible(weights)
        with torch.no_grad():
            kinds = self.types[slots].masked_fill(~keep, len(kernel)).flatten()  # those nobody hears come last
            counts = torch.bincount(kinds, minlength=len(kernel) + 1).tolist()[:-1]  # the one wait for the device
            flat = kinds.argsort(stable=True)[: sum(counts)]
            slot = slots.flatten()[flat]
            query = flat // slots.shape[-1]
            row = (query // count) * (config.anchors + 1) + slot
        centres = torch.cat([anchors, anchors.new_zeros(heads, 1, 3)], dim=1)
        centres = F.pad(centres, (0, size - 3)).flatten(0, 1)
        delta = (points.flatten(0, 1)[query] - centres[row]) * self.sign[slot]
        values = self.members(delta, share.flatten(0, 1)[row], counts)
        blended = weights.flatten()[flat] * values
        return points.new_zeros(heads * count).index_add(0, query, blended).view(heads, count)
