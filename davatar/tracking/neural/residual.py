"""Distance of depth points to the neural surface, in mm, with its derivatives by pose and coefficients.

The field is not exactly a distance, so its value is divided by its steepness. One backward pass gives every
point's own derivative by the codes: each point carries its own copy of them. Camera axes, m, unless said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from davatar.tracking.neural.variables import MM_PER_UNIT, POSE, CodeSpace, NeuralState

FLATTEST = 0.3  # steepness below which the field is taken as no flatter (far folds, empty regions)


@dataclass(frozen=True)
class FieldRows:
    residual: np.ndarray  # [N] mm, signed: positive outside the surface
    normal: np.ndarray  # [N, 3] unit, camera axes, outward
    rows: np.ndarray  # [N, 6 + J] float32, mm per step unit
    identity_rows: np.ndarray | None  # [N, K] float32, mm per unit along the identity basis


def field_rows(
    space: CodeSpace,
    state: NeuralState,
    identity: np.ndarray,
    points: np.ndarray,
    by_identity: bool = False,
    scale: float = 1.0,
) -> FieldRows:
    """
    Args:
        identity: [Di] code.
        points: [N, 3] m, camera axes.
        by_identity: also differentiate along the identity basis (costs about twice as much).
        scale: metres of the recording per metre of the model.
    """
    network = space.model.network
    x = torch.as_tensor(state.to_head(points, scale), dtype=space.model.dtype)[:, None].requires_grad_(True)
    expression = space.expression(state.expression).expand(len(points), -1).clone().requires_grad_(True)
    code = torch.as_tensor(identity, dtype=space.model.dtype)[None]
    leaves = [x, expression]
    if by_identity:
        own = code.expand(len(points), -1).clone().requires_grad_(True)
        leaves.append(own)
        value = network.identity(network.to_canonical(x, own, expression), own)[:, 0]
    else:
        canonical = network.to_canonical(x, code.expand(len(points), -1), expression)
        value = network.identity(canonical.transpose(0, 1), code)[0]
    slopes = torch.autograd.grad(value.sum(), leaves)
    slope = slopes[0][:, 0]
    steepness = slope.norm(dim=-1).clamp_min(FLATTEST)
    mm = scale * MM_PER_UNIT / steepness
    normal = (slope / steepness[:, None]).numpy().astype(np.float64) @ state.rotation.T
    arm = points - state.center
    rows = np.empty((len(points), POSE + space.expression_basis.shape[1]), np.float32)
    rows[:, :3] = -1000 * np.cross(arm, normal)
    rows[:, 3:POSE] = -1000 * normal
    rows[:, POSE:] = ((slopes[1] * mm[:, None]) @ space.expression_basis).numpy()
    by = ((slopes[2] * mm[:, None]) @ space.identity_basis).numpy() if by_identity else None
    return FieldRows((value.detach() * mm).numpy().astype(np.float64), normal, rows, by)
