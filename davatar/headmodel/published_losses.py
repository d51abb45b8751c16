"""The losses of the published head-model training, by their published names (spec dphm 3.3).

All groups of points go through the network in one call with spatial gradients: S surface, O outer
(hair, neck), F near the surface, R far. Tensors in, one scalar per name out; head-model units.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from davatar.headmodel.nphm import NPHM

WEIGHTS = {
    "surf_sdf": 1.0,
    "normals": 0.3,
    "space_sdf": 0.01,
    "eikonal": 0.15,
    "reg_shape": 0.01,
    "reg_expr": 0.05,
    "anchors": 7.5,
    "symm_dist": 0.01,
    "middle_dist": 0.0,
    "corresp": 1000.0,
    "loss_reg_zero": 0.001,
    "loss_neutral_zero": 0.001,
    "hyper": 0.01,
}
"""Factor of each loss in the total."""
CORRESP_QUARTER, CORRESP_END = 750, 3000  # epochs: beyond the first a quarter counts, from the second on nothing
OUTER_NORMAL_LIMIT = 0.75  # hair has no trustworthy normals: their error is cut here and counted a quarter
REGULARISED = 50  # random points per sample at which nothing shall move
REGULARISED_BOX = 1.25  # half edge of the cube they are drawn in


@dataclass(frozen=True)
class ScanBatch:
    """What one training step sees; B > 1 samples."""

    surface: Tensor  # [B, S, 3]
    surface_normal: Tensor  # [B, S, 3] unit, outward
    outer: Tensor  # [B, O, 3] surface outside the face region
    outer_normal: Tensor  # [B, O, 3]
    near: Tensor  # [B, F, 3] surface points with noise
    far: Tensor  # [B, R, 3] anywhere
    regularised: Tensor  # [B, 50, 3] uniform in the cube of half edge 1.25
    posed: Tensor  # [B, C, 3] correspondences in the sample's expression
    neutral: Tensor  # [B, C, 3] the same points in the subject's neutral expression
    anchors: Tensor  # [B, K, 3] true anchors
    is_neutral: Tensor  # [B] bool
    has_correspondences: Tensor  # [B] bool
    has_anchors: Tensor  # [B] bool
    supervise_hair: Tensor  # [B] bool: outer points count

    def to(self, device: torch.device | str) -> ScanBatch:
        return ScanBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def _mean(*parts: Tensor) -> Tensor:
    """Mean over all entries of all parts together; 0 where there is none."""
    joined = torch.cat([part.flatten() for part in parts])
    return joined.mean() if joined.numel() else joined.sum()


def local_codes(model: NPHM, identity: Tensor) -> Tensor:
    """Identity codes [B, Di] -> local codes [B, K + 1, L]."""
    config = model.config
    return identity[:, config.global_size :].unflatten(-1, (config.anchors + 1, config.local_size))


def published_losses(
    model: NPHM, batch: ScanBatch, identity: Tensor, expression: Tensor, epoch: int
) -> dict[str, Tensor]:
    """Every loss of `WEIGHTS`, unweighted but for the epoch's switch of `corresp`.

    Args:
        identity, expression: codes [B, Di], [B, De].
        epoch: completed passes over the data.

    Source: spec dphm 3.3; reproduces the golden training losses (tests/headmodel/test_published_training.py).
    """
    anchors = model.identity.anchors(identity)
    groups = [batch.surface, batch.outer, batch.near, batch.far]
    counts = [group.shape[1] for group in groups]
    x = torch.cat(groups, dim=1).requires_grad_()
    offset, hyper = model.deformation(x, identity, expression, anchors)
    sdf = model.identity(torch.cat([x + offset, hyper], dim=-1), identity)
    (gradient,) = torch.autograd.grad(sdf.sum(), x, create_graph=True)
    on_surface, on_outer, _, far = sdf.split(counts, dim=1)
    slope_surface, slope_outer, _, _ = gradient.split(counts, dim=1)
    off_surface, off_outer, off_near, _ = offset.split(counts, dim=1)
    hyper_surface, hyper_outer, hyper_near, hyper_far = hyper.split(counts, dim=1)
    random_offset, random_hyper = model.deformation(batch.regularised, identity, expression, anchors)
    local = local_codes(model, identity)
    pairs, middle = model.config.pairs, local[:, 2 * model.config.pairs : model.config.anchors]
    even = middle.shape[1] // 2 * 2
    neutral, hair = batch.is_neutral, batch.supervise_hair
    normal_error = (slope_surface - batch.surface_normal).norm(dim=-1)
    hair_error = (slope_outer - batch.outer_normal)[hair].norm(dim=-1).clamp_max(OUTER_NORMAL_LIMIT) / 4
    still = [off_surface[neutral], off_outer, off_near] if neutral.any() else []
    still_hyper = [hyper_surface[neutral], hyper_outer, hyper_near] if neutral.any() else []
    zero = sdf.sum() * 0
    return {
        "surf_sdf": _mean(on_surface.abs(), *([on_outer.abs()] if hair.any() else [])),
        "normals": _mean(normal_error, hair_error),
        "space_sdf": torch.exp(-10 * far.abs()).mean(),
        "eikonal": (gradient.norm(dim=-1) - 1).abs().mean(),
        "reg_shape": (identity**2).sum(-1).mean(),
        "reg_expr": (expression**2).sum(-1).mean(),
        "anchors": _mean(((anchors - batch.anchors) ** 2)[batch.has_anchors]),
        "symm_dist": (local[:, 0 : 2 * pairs : 2] - local[:, 1 : 2 * pairs : 2]).norm(dim=-1).mean(),
        "middle_dist": _mean((middle[:, 0:even:2] - middle[:, 1:even:2]).norm(dim=-1)),
        "corresp": _correspondence(model, batch, identity, expression, anchors, epoch) + zero,
        "loss_reg_zero": (random_offset**2).mean(),
        "loss_neutral_zero": _mean(*[part**2 for part in still]) if still else zero,
        "hyper": _mean(hyper_surface.abs(), hyper_far.abs(), random_hyper.abs())
        + (10 * _mean(*[part.abs() for part in still_hyper]) if still else zero),
    }


def _correspondence(
    model: NPHM, batch: ScanBatch, identity: Tensor, expression: Tensor, anchors: Tensor, epoch: int
) -> Tensor:
    has = batch.has_correspondences
    if epoch >= CORRESP_END or not has.any():
        return identity.new_zeros(())
    offset, _ = model.deformation(batch.posed, identity, expression, anchors)
    error = ((batch.posed + offset - batch.neutral) ** 2)[has].mean()
    return error * (0.25 if epoch > CORRESP_QUARTER else 1.0)


def total_loss(losses: dict[str, Tensor], weights: dict[str, float] = WEIGHTS) -> Tensor:
    """Weighted sum."""
    return torch.stack([weights[name] * value for name, value in losses.items()]).sum()
