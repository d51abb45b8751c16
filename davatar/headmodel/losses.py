"""What training the open head model minimises: position and slope of the field, correspondences of the deformation.

A batch holds pairs of points p +- h n around the visible surface and wide points with their
distance (`ict_samples`). Lengths inside the losses are mm.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from davatar.headmodel.ict_surface import MM
from davatar.headmodel.nphm import NPHM


def pair_terms(plus: Tensor, minus: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Field values at p +- h n -> (distance of its zero from p in mm, relative error of its slope), elementwise."""
    return (plus + minus).abs() / (2 * MM), ((plus - minus) / (2 * half) - 1).abs()


def wide_term(value: Tensor, distance: Tensor, corner: float) -> Tensor:
    """Huber error in mm, `corner` mm wide, fading with the distance from the surface."""
    error = (value - distance).abs() / MM
    huber = torch.where(error < corner, error**2 / (2 * corner), error - corner / 2)
    return huber / (1 + distance.abs() / (6 * MM))


def _distance_loss(
    plus: Tensor, minus: Tensor, far: Tensor, batch: dict[str, Tensor], corner: float
) -> tuple[Tensor, dict[str, Tensor]]:
    position, slope = pair_terms(plus, minus, batch["half"])
    wide = wide_term(far, batch["distance"], corner)
    loss = position.mean() + 2 * (slope + slope**2).mean() + 0.7 * wide.mean()
    return loss, {"position_mm": position.mean(), "slope": slope.mean(), "wide_mm": wide.mean()}


def _correspondence_loss(
    error: Tensor, motion: Tensor, far_error: Tensor, batch: dict[str, Tensor], relative: float
) -> tuple[Tensor, Tensor]:
    """Errors and motions in mm -> (loss, mean error); relative to the motion as well, so that faint ones count."""
    near = error.mean() + relative * (error / (0.3 + motion)).mean()
    fade = batch["has_partner"] / (1 + batch["distance"].abs() / (3 * MM))
    return near + 0.4 * (far_error * fade).sum() / fade.sum().clamp_min(1), error.mean()


def _length(v: Tensor) -> Tensor:
    return ((v / MM) ** 2).sum(-1).add(1e-8).sqrt()


def stage_loss(
    model: NPHM, stage: str, batch: dict[str, Tensor], corner: float, relative: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch and its terms (means, mm; slope without unit).

    Args:
        corner: where the error of wide points turns from squared to linear, mm.
        relative: weight of correspondence errors over the size of the motion.
    """
    pairs = batch["surface"].shape[1]
    sides = (1,) if stage == "deformation" else (1, -1)
    shifts = [side * batch["half"][..., None] for side in sides]
    points = torch.cat([batch["surface"] + s * batch["normal"] for s in shifts] + [batch["wide"]], dim=1)
    parts = [pairs] * len(sides) + [batch["wide"].shape[1]]
    if stage == "identity":
        canonical = F.pad(points, (0, model.config.hyper))
        return _distance_loss(*model.identity(canonical, batch["identity"]).split(parts, dim=1), batch, corner)
    canonical = model.to_canonical(points, batch["identity"], batch["expression"])
    wanted = [batch["canonical"] + s * batch["canonical_normal"] for s in shifts] + [batch["partner"]]
    *near, far_error = _length(canonical[..., :3] - torch.cat(wanted, dim=1)).split(parts, dim=1)
    motion = torch.cat([batch["motion"] / MM] * len(sides), dim=1)
    match, mean = _correspondence_loss(torch.cat(near, dim=1), motion, far_error, batch, relative)
    if stage == "deformation":
        return match, {"correspondence_mm": mean}
    values = model.identity(canonical, batch["identity"]).split(parts, dim=1)
    loss, terms = _distance_loss(*values, batch, corner)
    return loss + 0.7 * match, terms | {"correspondence_mm": mean}
