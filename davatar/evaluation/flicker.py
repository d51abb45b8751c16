"""Temporal flicker, measured against the truth: how much the error changes from one frame to the next.

    flicker = RMS over the head of (prediction - previous prediction) - (truth - previous truth)

A picture that is wrong in the same way in every frame does not flicker; one that is still while the head moves
does. Units are grey levels (1/255); `true_change`, the RMS of the truth's own difference, says what it compares to.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from davatar.evaluation.mask import grown


class Flicker:
    """Sums over the neighbouring frames of one clip; holds one frame."""

    def __init__(self):
        self._before: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None = None
        self._error, self._change, self._weight = 0.0, 0.0, 0.0

    def add(self, prediction: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None) -> None:
        """The next frame: pictures [H, W, 3] uint8; mask [H, W] uint8 of the head, None = the whole picture counts."""
        if self._before is not None:
            earlier, truth, covered = self._before
            change = target.astype(np.float64) - truth
            error = prediction.astype(np.float64) - earlier - change
            weight = np.ones(target.shape[:2]) if mask is None or covered is None else _either(mask, covered)
            self._error += float((error**2).mean(-1).ravel() @ weight.ravel())
            self._change += float((change**2).mean(-1).ravel() @ weight.ravel())
            self._weight += float(weight.sum())
        self._before = prediction, target, mask

    def interrupt(self) -> None:
        """The next frame has no neighbour before it."""
        self._before = None

    @property
    def values(self) -> dict[str, float | None]:
        """flicker, true_change; None where the clip has no two neighbours."""
        if not self._weight:
            return {"flicker": None, "true_change": None}
        return {
            "flicker": math.sqrt(self._error / self._weight),
            "true_change": math.sqrt(self._change / self._weight),
        }


def _either(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[H, W] 0 or 1: the head, grown by two pixels, in either frame."""
    covered = torch.from_numpy(np.maximum(one, other))[None]
    return grown(covered)[0].numpy().astype(np.float64)
