"""Sampled codes, and the heads they stand for as meshes in metres and in the head's own axes.

A walk from one head to the next goes through the noise that samples start from, not through codes: every
head on the way is one the prior could have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from davatar.core.errors import DataError, UsageError
from davatar.core.progress import Progress, silent
from davatar.geometry.mesh import Mesh
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.morphable import UNITS_PER_METRE, open_morphable, to_head_units
from davatar.prior.code_prior import CodePrior, Kind, Sampler

EXPRESSION_SALT = 10**6  # keeps the expression's noise apart from the identity's of the same seed


@dataclass(frozen=True)
class SampledCodes:
    identity: Tensor  # [n, Di]
    expression: Tensor  # [n, De]

    def __len__(self) -> int:
        return len(self.identity)

    @classmethod
    def of(cls, kind: Kind, codes: Tensor, head: HeadModel) -> SampledCodes:
        """What a prior of `kind` made, [n, L]; a code that it does not make is zero (mean identity, no expression)."""
        if kind == "joint":
            return cls(codes[:, : head.identity_size], codes[:, head.identity_size :])
        if kind == "identity":
            return cls(codes, torch.zeros(len(codes), head.expression_size))
        return cls(torch.zeros(len(codes), head.identity_size), codes)


def sample_codes(
    head: HeadModel,
    identity: CodePrior | None,
    expression: CodePrior | None,
    n: int,
    steps: int = 20,
    seed: int = 0,
    sampler: Sampler = "dpm",
    between: int = 1,
) -> SampledCodes:
    """Codes of `n` heads; without a prior that code is zero (mean identity, neutral expression).

    Args:
        identity: of identities, or a joint one, which draws both.
        between: more than 1: a closed walk past the same heads, `n * between` codes long, every `between`-th of
            which is one of them; needs a sampler without noise on the way ("dpm", "ddim" or "unipc").

    Raises:
        DataError: a prior was trained for codes of another size.
        UsageError: fewer than one sample, an expression prior beside a joint one, or an "ancestral" walk.
    """
    if between > 1 and sampler == "ancestral":
        raise UsageError("the ancestral sampler draws noise on its way and gives no smooth walk", mend="take dpm")

    def draw(prior: CodePrior | None, size: int, salt: int) -> Tensor:
        if prior is None:
            return torch.zeros(n * between, size)
        if prior.code_size != size:
            raise DataError(
                f"the {prior.kind} prior makes codes of {prior.code_size} numbers, the head model takes {size}",
                mend="take the prior that was trained for this head model",
            )
        if between == 1:
            return prior.sample(n, steps, seed + salt, sampler)
        start = walk(prior.noise(n, seed + salt), between)
        return prior.sample(len(start), steps, sampler=sampler, start=start)

    if identity is not None and identity.kind == "joint":
        if expression is not None:
            raise UsageError("a joint prior draws expressions itself", mend="leave the expression prior out")
        both = draw(identity, head.identity_size + head.expression_size, 0)
        return SampledCodes.of("joint", both, head)
    return SampledCodes(draw(identity, head.identity_size, 0), draw(expression, head.expression_size, EXPRESSION_SALT))


def walk(noise: Tensor, between: int) -> Tensor:
    """[n, L] unit noise -> [n * between, L]: from each row to the next and back to the first, unit noise all along."""
    angle = torch.arange(between, dtype=noise.dtype)[:, None] / between * (torch.pi / 2)
    return torch.cat([angle.cos() * one + angle.sin() * two for one, two in zip(noise, noise.roll(-1, 0), strict=True)])


def meshes(
    head: HeadModel, codes: SampledCodes, resolution: int, progress: Progress = silent, follow: bool = False
) -> Iterator[Mesh]:
    """Surface of each head, m; one after the other, so that memory stays that of one.

    Args:
        resolution: samples per axis of the head model's box.
        follow: neighbours are alike (a walk): each search starts from the surface before.
    """
    previous = {}
    with progress.task("head meshes", len(codes)) as task:
        for identity, expression in zip(codes.identity, codes.expression, strict=True):
            mesh = head.mesh(identity, expression, resolution, **previous)
            if follow:
                previous = {"previous": mesh}
            yield mesh.transformed(np.eye(3), np.zeros(3), float(head.frame[0, 0]))
            task.advance()


def morphable_meshes(head: HeadModel, codes: SampledCodes) -> Iterator[Mesh]:
    """The morphable heads that codes of the open head model stand for, m: milliseconds each, no surface search."""
    model = open_morphable()
    identity, expression = head.coefficients(codes.identity, codes.expression)
    triangles = model.visible_triangles
    for who, what in zip(identity.numpy(), expression.numpy(), strict=True):
        yield Mesh(to_head_units(model.vertices(who, what)) / UNITS_PER_METRE, triangles)
