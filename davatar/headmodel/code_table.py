"""Code tables of an auto-decoder: a free code per row, kept in a ball, moved only when looked up (spec dphm 3.5).

A row whose norm exceeds the limit is shrunk in place before it is read. The optimiser is sparse Adam:
rows that a batch does not name keep their value and their moments. Rows and gradients may come from
several processes; every process applies all of them, so the tables stay equal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_NORM = 1.0
BETAS, EPSILON = (0.9, 0.999), 1e-8


class CodeTable(nn.Module):
    """
    Args:
        rows, size: number of codes and their length; all start at zero.
        rate: learning rate.
        max_norm: largest norm of a row; a longer one is scaled by max_norm / (norm + 1e-7).
    """

    def __init__(self, rows: int, size: int, rate: float, max_norm: float = MAX_NORM):
        super().__init__()
        self.rate, self.max_norm, self.steps = rate, max_norm, 0
        self.register_buffer("weight", torch.zeros(rows, size))
        self.register_buffer("mean", torch.zeros(rows, size))  # Adam's moments
        self.register_buffer("square", torch.zeros(rows, size))

    @torch.no_grad()
    def look_up(self, rows: Tensor, everywhere: Tensor | None = None) -> Tensor:
        """Codes [B, size] of rows [B], a leaf whose gradient `step` takes.

        Args:
            everywhere: rows that any process looks up now; all of them are shrunk here as well.
        """
        touched = torch.unique(rows if everywhere is None else everywhere)
        codes = self.weight[touched]
        norm = codes.norm(dim=1, keepdim=True)
        self.weight[touched] = torch.where(norm > self.max_norm, codes * (self.max_norm / (norm + 1e-7)), codes)
        return self.weight[rows].requires_grad_()

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor) -> None:
        """One sparse Adam step from the gradients [B, size] of the codes of rows [B]; duplicates are summed."""
        self.steps += 1
        touched, place = torch.unique(rows, return_inverse=True)
        summed = gradient.new_zeros(len(touched), gradient.shape[1]).index_add_(0, place, gradient)
        first, second = BETAS
        mean = self.mean[touched].lerp(summed, 1 - first)
        square = self.square[touched].lerp(summed**2, 1 - second)
        size = self.rate * math.sqrt(1 - second**self.steps) / (1 - first**self.steps)
        self.mean[touched], self.square[touched] = mean, square
        self.weight[touched] -= size * mean / (square.sqrt() + EPSILON)

    def state(self) -> dict:
        """Codes, moments and step count, for `restore`."""
        return {**self.state_dict(), "steps": self.steps}

    def restore(self, state: dict) -> None:
        self.load_state_dict({name: value for name, value in state.items() if name != "steps"})
        self.steps = state["steps"]
