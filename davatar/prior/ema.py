"""Exponential moving average of weights, by the published recurrence (spec dphm 4.4).

Call c = 0, 1, ...: a copy while c <= start; nothing unless c is a multiple of `every`; then
average += (1 - decay) (weights - average), decay rising as 1 - (1 + age)^(-2/3) up to its limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Ema:
    decay: float = 0.995
    every: int = 10
    start: int = 100
    calls: int = 0
    average: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Take in the weights after one training step."""
        call, self.calls = self.calls, self.calls + 1
        if call % self.every:
            return
        if call <= self.start or not self.average:
            self.average = {key: value.detach().clone() for key, value in weights.items()}
            return
        decay = min(max(1 - (call + 1 - self.start) ** (-2 / 3), 0.0), self.decay)
        for key, value in weights.items():
            if value.is_floating_point():
                self.average[key].lerp_(value.detach(), 1 - decay)
            else:
                self.average[key].copy_(value)
