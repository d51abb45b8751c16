"""Learnt features on planes, looked up at canonical coordinates.

Two look-ups live here. The published one (`sample_wrapped`, its faster twin `sample_shared`, `PlaneTextures`;
spec diffusion-avatars 5.4) works on whole images, wraps at the border and is masked. The one of the small
avatar (`Triplanes`) works on a list of head points in head-model units and clamps at the border of `BOX`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

# Head-model units; holds the canonical surface of every identity of the open model with a margin.
BOX = ((-0.46, 0.46), (-0.66, 0.62), (-0.74, 0.34))


def sample_wrapped(texture: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """Bilinear look-up with texel centres at (i + 0.5) / R; coordinates outside [0, 1] wrap.

    Args:
        texture: [B, R, R, D], row = second coordinate, column = first.
        coordinates: [B, H, W, 2] in texture units (0..1 once around).

    Returns:
        [B, D, H, W].
    """
    batch, size, _, features = texture.shape
    position = coordinates * size - 0.5
    low = position.floor()
    share = position - low
    low = low.long()
    flat = texture.reshape(batch, size * size, features)
    out = 0
    for down in (0, 1):
        for right in (0, 1):
            column, row = (low[..., 0] + right) % size, (low[..., 1] + down) % size
            weight = (share[..., 0] if right else 1 - share[..., 0]) * (share[..., 1] if down else 1 - share[..., 1])
            index = (row * size + column).reshape(batch, -1, 1).expand(-1, -1, features)
            out = out + flat.gather(1, index).reshape(*weight.shape, features) * weight[..., None]
    return out.permute(0, 3, 1, 2)


def sample_hierarchy(textures: Sequence[torch.Tensor], coordinates: torch.Tensor) -> torch.Tensor:
    """[B, D, H, W]: the sum of `sample_wrapped` in textures of several sizes, coarse ones for what is far from any."""
    return torch.stack([sample_wrapped(texture, coordinates) for texture in textures]).sum(0)


def sample_shared(texture: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """`sample_wrapped` of one texture that all frames share: nothing of its size is copied per frame.

    Args:
        texture: [R, R, D].
        coordinates: [B, H, W, 2] in texture units.

    Returns:
        [B, D, H, W].
    """
    size, _, features = texture.shape
    batch, height, width, _ = coordinates.shape
    bordered = F.pad(texture.permute(2, 0, 1)[None], (1, 1, 1, 1), mode="circular")
    place = ((coordinates - coordinates.floor()) * size + 1) / (size + 2) * 2 - 1
    found = F.grid_sample(bordered, place.reshape(1, batch * height, width, 2), align_corners=False)
    return found.reshape(features, batch, height, width).transpose(0, 1)


class PlaneTextures(nn.Module):
    """Three canonical planes and one ambient plane per participant, under the published names."""

    def __init__(self, participants: int, size: int, features: int, gain: float = 1.0):
        super().__init__()
        self.size, self.features = size, features
        for name in ("neural_texture_lookup_uv", "neural_texture_lookup_uw", "neural_texture_lookup_vw"):
            self.add_module(name, nn.Embedding(participants, size * size * features))
        self.ambient_texture_lookup = nn.Embedding(participants, size * size * features)
        for plane in self.children():
            nn.init.normal_(plane.weight, std=gain)

    def _look_up(self, plane: nn.Embedding, participant: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
        shape = (self.size, self.size, self.features)
        if plane.num_embeddings == 1:
            return sample_shared(plane.weight.reshape(shape), (coordinates + 1) / 2)
        return sample_wrapped(plane(participant).reshape(-1, *shape), (coordinates + 1) / 2)

    def forward(
        self, canonical: torch.Tensor, ambient: torch.Tensor, mask: torch.Tensor, participant: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            canonical: [B, 3, H, W] in -1..1 of the canonical box.
            ambient: [B, 2, H, W] in -1..1.
            mask: [B, H, W] bool, the head.
            participant: [B] row of the tables.

        Returns:
            features of the three planes [B, 3 D, H, W] and of the ambient plane [B, D, H, W], 0 outside the mask.
        """
        q = canonical.permute(0, 2, 3, 1)
        planes = [
            self._look_up(self.neural_texture_lookup_uv, participant, q[..., [0, 1]]),
            self._look_up(self.neural_texture_lookup_uw, participant, q[..., [0, 2]]),
            self._look_up(self.neural_texture_lookup_vw, participant, q[..., [1, 2]]),
        ]
        hidden = self._look_up(self.ambient_texture_lookup, participant, ambient.permute(0, 2, 3, 1))
        inside = mask[:, None].to(q.dtype)
        return torch.cat(planes, 1) * inside, hidden * inside


class Triplanes(nn.Module):
    """Per identity three planes (x,y), (x,z), (y,z) of C x R x R features."""

    def __init__(self, identities: int, channels: int, size: int, std: float = 0.1):
        super().__init__()
        self.planes = nn.ParameterList(torch.randn(3, channels, size, size) * std for _ in range(identities))
        low, high = torch.tensor(BOX).T
        self.register_buffer("center", (low + high) / 2, persistent=False)
        self.register_buffer("extent", (high - low) / 2, persistent=False)

    def forward(self, points: torch.Tensor, identity: int = 0) -> torch.Tensor:
        """Canonical points [N, 3], head-model units -> [N, 3 C]; points outside the box take the border's features."""
        unit = (points - self.center) / self.extent
        grid = torch.stack([unit[:, [0, 1]], unit[:, [0, 2]], unit[:, [1, 2]]])[:, None]
        planes = self.planes[identity]
        found = F.grid_sample(planes, grid.to(planes.dtype), padding_mode="border", align_corners=False)
        return found[:, :, 0].permute(2, 0, 1).reshape(len(points), -1)
