"""What chance decides about the frames of a training step: times and noise, drawn frame by frame.

Each frame of a step has a generator of its own, a function of (seed, step, place in the step). So what a
frame is told does not depend on how a step is shared among processes or cut into parts, and a resumed
training needs no state of a generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Draws:
    time: torch.Tensor  # [B] as the avatar counts it
    noise: torch.Tensor  # [B, C, h, w] of the diffusion
    image_noise: torch.Tensor | None = None  # [B, C, h, w] that samples a variational image encoder

    @staticmethod
    def joined(parts: Sequence[Draws]) -> Draws:
        columns = zip(*(part._row() for part in parts), strict=True)
        return Draws(*(None if column[0] is None else torch.cat(column) for column in columns))

    def to(self, device: torch.device | str) -> Draws:
        return Draws(*(None if x is None else x.to(device) for x in self._row()))

    def _row(self) -> tuple[torch.Tensor | None, ...]:
        return self.time, self.noise, self.image_noise
