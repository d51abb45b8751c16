"""The energies of the published fit, for one frame each: functions of codes, pose and points (spec dphm 6.3).

Poses are quaternions (real part first, any length) and the position t of the head-model origin in m:
x_H = 4 R^T (x_camera - t) / c. Codes, distances and anchors are in head-model units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.morphable import UNITS_PER_METRE

Cuts = tuple[tuple[int, float], ...]  # (iteration, head-model units): only smaller distances count from there on


@dataclass
class Variables:
    """What one frame is described by; the tensors may be leaves of a graph."""

    identity: Tensor  # [Di]
    expression: Tensor  # [De]
    quaternion: Tensor  # [4]
    translation: Tensor  # [3] m
    scale: Tensor  # [] metres of the recording per metre of the model

    def to_head(self, points: Tensor) -> Tensor:
        """[N, 3] m, camera axes -> head-model units."""
        return UNITS_PER_METRE * (points - self.translation) @ rotation_of(self.quaternion) / self.scale


def rotation_of(quaternion: Tensor) -> Tensor:
    """[4] real part first, any length -> [3, 3]."""
    w, x, y, z = quaternion
    two = 2 / quaternion.square().sum()
    return torch.stack(
        [
            torch.stack([1 - two * (y * y + z * z), two * (x * y - z * w), two * (x * z + y * w)]),
            torch.stack([two * (x * y + z * w), 1 - two * (x * x + z * z), two * (y * z - x * w)]),
            torch.stack([two * (x * z - y * w), two * (y * z + x * w), 1 - two * (x * x + y * y)]),
        ]
    )


def truncated(distance: Tensor, cuts: Cuts, iteration: int) -> Tensor:
    """Mean of |sdf| over the points below every cut that is in force; 0 if none is left."""
    kept = distance.abs()
    for since, cut in cuts:
        if iteration >= since:
            kept = kept[kept < cut]
    return kept.mean() if len(kept) else distance.sum() * 0


def surface(model: HeadModel, here: Variables, points: Tensor, cuts: Cuts, iteration: int) -> Tensor:
    """Mean |sdf| of depth points [N, 3] m, hard truncated."""
    return truncated(model.sdf(here.to_head(points), here.identity, here.expression), cuts, iteration)


def surface_and_normals(
    model: HeadModel, here: Variables, points: Tensor, normals: Tensor, cuts: Cuts, iteration: int
) -> tuple[Tensor, Tensor]:
    """`surface`, and the mean of 1 - cosine between the field's slope and measured outward normals [N, 3]."""
    x = here.to_head(points)
    if not x.requires_grad:
        x.requires_grad_(True)
    distance = model.sdf(x, here.identity, here.expression)
    (slope,) = torch.autograd.grad(distance.sum(), x, create_graph=True)
    outward = normals @ rotation_of(here.quaternion)
    unit = slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return truncated(distance, cuts, iteration), (1 - (unit * outward).sum(-1)).mean()


def anchors(model: HeadModel, here: Variables, landmarks: Tensor, slots: Tensor) -> Tensor:
    """Landmarks [L, 3] m, carried to canonical space, to the anchors of the given slots [L]: mean L1 distance."""
    canonical = model.to_canonical(here.to_head(landmarks), here.identity, here.expression)[..., :3]
    return (canonical - model.anchors(here.identity)[slots]).abs().sum(-1).mean()


def change(here: Variables, other: Variables, names: tuple[str, str, str]) -> dict[str, Tensor]:
    """Difference to another frame, which is held: squared for the code, plain norms for the pose.

    q and -q are the same rotation, so signs are aligned first (spec 8.3, 6).
    """
    sign = torch.sign((here.quaternion.detach() * other.quaternion.detach()).sum())
    return {
        names[0]: (here.expression - other.expression.detach()).square().sum(),
        names[1]: _norm(here.quaternion - sign * other.quaternion.detach()),
        names[2]: _norm(here.translation - other.translation.detach()),
    }


def _norm(difference: Tensor) -> Tensor:
    return (difference.square().sum() + 1e-16).sqrt()  # the norm's own gradient at zero is not finite
