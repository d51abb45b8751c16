"""An average of the weights over the last steps: it paints calmer than the weights of any one step.

    average += (1 - d) (weights - average),   d = min(decay, (1 + n) / (10 + n)) after n steps

The ramp forgets the untrained start soon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class WeightAverage:
    """
    Args:
        weights: the live tensors of a training, by name; they are read at every `update`.
        decay: limit of d above.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], decay: float):
        self.weights = {name: tensor.detach() for name, tensor in weights.items()}
        self.decay, self.steps = decay, 0
        self.average = {name: tensor.clone() for name, tensor in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in self.weights.items():
            self.average[name].lerp_(tensor, share)

    @torch.no_grad()
    def load(self, average: Mapping[str, torch.Tensor], steps: int) -> None:
        """Go on from a stored average of so many steps."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])
        self.steps = steps

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within the block the training's tensors hold the average."""
        own = {name: tensor.clone() for name, tensor in self.weights.items()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in self.weights.items():
            tensor.copy_(values[name])
