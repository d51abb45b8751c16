"""NPHM: a signed distance field of a head from an identity and an expression code (spec dphm 1).

A posed point goes back to this identity's canonical space (`deformation`), where an ensemble of
small networks around anchors on the head says its signed distance (`ensemble`). All lengths are
head-model units (1 unit = 250 mm), distances positive outside. One set of classes serves published
checkpoints (softplus, linear head, every member counted) and the open model (SiLU, product head,
faint members skipped): what differs is data in `NPHMConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from davatar.headmodel.deformation import make_deformation
from davatar.headmodel.ensemble import IdentityDecoder

Activation = Literal["softplus100", "silu", "relu"]


@dataclass(frozen=True)
class NPHMConfig:
    """Widths and rules of a head model; the defaults are those of the published checkpoints."""

    global_size: int = 64  # identity numbers every member sees
    local_size: int = 32  # identity numbers per anchor slot
    anchors: int = 39
    pairs: int = 16  # mirrored pairs among the anchors; a pair shares one network
    neighbours: int = 8  # nearest anchors that speak for a point, besides the global member
    blend_std: float = 4.0  # farthest neighbour's distance over the blend width
    member_cut: float = 0.0  # members below this share of the blend are silent; 0 keeps all
    member_width: int = 200
    member_layers: int = 4
    position_width: int = 64  # hidden width of the network that moves the anchors
    hyper: int = 2  # extra canonical coordinates
    expression_size: int = 200
    compressed_size: int = 32  # identity numbers the deformation sees
    deformation_width: int = 512
    deformation_layers: int = 6
    head: Literal["linear", "product"] = "linear"  # how offsets come from the trunk and the expression code
    linear_rank: int = 128  # product head: features that multiply the code and do not depend on it
    product_rank: int = 96  # product head: features that depend on the code as well
    prewarp_std: float = 0.08  # product head: width of the anchors' pull on a point, head-model units
    activation: Activation = "softplus100"

    @property
    def identity_size(self) -> int:
        return self.global_size + (self.anchors + 1) * self.local_size


class NPHM(nn.Module):
    """
    Args:
        config: sizes and rules.
        mean_anchors: [K, 3] mean anchors, head-model units (not part of published checkpoints).
    """

    def __init__(self, config: NPHMConfig, mean_anchors: Tensor):
        super().__init__()
        self.config = config
        self.identity = IdentityDecoder(config, mean_anchors)
        self.deformation = make_deformation(config, mean_anchors)

    def to_canonical(self, x: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
        """Posed points [B, N, 3], codes [B, Di], [B, De] -> [B, N, 3 + H]: canonical points, then hyper coordinates."""
        offset, hyper = self.deformation(x, identity, expression, self.identity.anchors(identity))
        return torch.cat([x + offset, hyper], dim=-1)

    def forward(self, x: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
        """Signed distance [B, N] at posed points [B, N, 3]; codes [B, Di], [B, De]."""
        return self.identity(self.to_canonical(x, identity, expression), identity)
