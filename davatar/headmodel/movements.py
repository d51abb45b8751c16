"""How much of a true movement a head model makes: lids, brows, mouth, followed point by point.

A vertex of the neutral head has a canonical point; where the deformation of an expression has that
same canonical point, the vertex has gone. Head-model units.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_surface import MM, teaching_surface
from davatar.headmodel.morphable import open_morphable

MOVEMENTS = {
    "blink": {"eyeBlink": 1.0},
    "one blink": {"eyeBlink_L": 1.0},
    "one inner brow up": {"browInnerUp_L": 1.0},
    "brows up": {"browInnerUp": 1.0, "browOuterUp": 1.0},
    "brows down": {"browDown": 1.0},
    "nose sneer": {"noseSneer": 1.0},
    "smile": {"mouthSmile": 1.0},
    "one smile": {"mouthSmile_R": 1.0},
    "jaw open": {"jawOpen": 1.0},
    "pucker": {"mouthPucker": 1.0},
    "cheek puff": {"cheekPuff": 1.0},
}
AMOUNTS = (1.0, 0.1)  # the faint one decides whether tracking can start from the neutral face


def follow_points(model: HeadModel, canonical: Tensor, start: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
    """Posed points [N, 3] whose canonical points are `canonical` [N, 3], by Newton from `start` [N, 3]."""
    x = start.clone()
    for _ in range(8):
        x = x.detach().requires_grad_()
        image = model.to_canonical(x, identity, expression)[..., :3]
        rows = [torch.autograd.grad(image[:, c].sum(), x, retain_graph=c < 2)[0] for c in range(3)]
        jacobian = torch.stack(rows, dim=1) + 1e-4 * torch.eye(3)
        step = torch.linalg.solve(jacobian, (image - canonical)[..., None])[..., 0].detach()
        x = x.detach() - step * (4 * MM / step.norm(dim=-1, keepdim=True).clamp_min(4 * MM))
    return x.detach()


def movement_shares(model: HeadModel, identity: np.ndarray, amount: float) -> dict[str, float]:
    """Share of each true movement that the model makes at `amount` of it; mean over the vertices that move most.

    Args:
        identity: [100] coefficients.
    """
    surface, morphable, out = teaching_surface(), open_morphable(), {}
    visible = np.zeros(len(surface.neutral), bool)
    visible[surface.triangles[~(surface.is_bag | surface.is_eye)]] = True
    neutral = surface.vertices(identity[None], np.zeros((1, 53)))[0]
    who, rest = model.codes(identity, np.zeros(53))
    for name, weights in MOVEMENTS.items():
        coefficients = amount * morphable.weights(**weights)
        motion = surface.vertices(identity[None], coefficients[None])[0] - neutral
        size = np.linalg.norm(motion, axis=1) * visible
        chosen = np.flatnonzero(size > 0.6 * size.max())
        chosen = chosen[:: 1 + len(chosen) // 150]
        before = torch.from_numpy(neutral[chosen])
        wanted = torch.from_numpy(motion[chosen])
        with torch.no_grad():
            canonical = model.to_canonical(before, who, rest)[..., :3]
        after = follow_points(model, canonical, before + wanted, who, model.codes(identity, coefficients)[1])
        share = ((after - before) * wanted).sum(-1) / (wanted**2).sum(-1)
        out[name] = float(share.mean())
    return out
