"""Does the network use what it is told? How its loss grows when frames are told what belongs to another one.

    probe/expression          codes of another frame      0 = the code is ignored
    probe/expression_zeroed   codes of zero
    probe/geometry            the maps of another frame

Each is loss / loss of the true condition - 1, over frames that are not learnt from, always with the same
times and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from davatar.avatar.checkpoints import randomness
from davatar.avatar.conditioning import HeadMaps, with_expression
from davatar.avatar.draws import Draws
from davatar.avatar.model import Avatar

PROBE_SEED = 0


def probes(avatar: Avatar, frames: Sequence[HeadMaps], at_once: int = 8) -> dict[str, float]:
    """The figures above; those that need two frames are left out where there is one.

    Args:
        at_once: frames in memory.
    """
    told = {"probe/expression_zeroed": [with_expression(maps, 0 * maps.expression) for maps in frames]}
    if len(frames) > 1:
        half = len(frames) // 2  # neighbours in a list are neighbours in time, and alike
        pairs = list(zip(frames, [*frames[half:], *frames[:half]], strict=True))
        told["probe/expression"] = [with_expression(own, other.expression) for own, other in pairs]
        told["probe/geometry"] = [_with_geometry(own, other) for own, other in pairs]
    true = mean_loss(avatar, frames, at_once)
    return {name: mean_loss(avatar, changed, at_once) / true - 1 for name, changed in told.items()}


@torch.no_grad()
def mean_loss(avatar: Avatar, frames: Sequence[HeadMaps], at_once: int) -> float:
    """The training loss with times and noise that depend on a frame's place only."""
    device = next(avatar.parameters()).device
    found: list[np.ndarray] = []
    for start in range(0, len(frames), at_once):
        some = frames[start : start + at_once]
        draws = [avatar.draw(1, randomness(PROBE_SEED, 0, start + place)) for place in range(len(some))]
        losses = avatar.frame_losses(avatar.batch(some).to(device), Draws.joined(draws).to(device))["losses"]
        found.append(losses.double().cpu().numpy())
    return float(np.concatenate(found).mean())


def _with_geometry(own: HeadMaps, other: HeadMaps) -> HeadMaps:
    """`own` picture and expression on the surface of another frame."""
    return replace(other, image=own.image, expression=own.expression, key=own.key)
