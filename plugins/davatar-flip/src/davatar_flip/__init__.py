"""FLIP (Andersson et al. 2020): the error that a viewer sees when flipping between two pictures, 0..1.

Pictures [N, 3, H, W] float, sRGB 0..1. The error map of each picture is NVIDIA's own (package
`flip-evaluator`); here it is averaged over the mask. Viewing distance: 67 pixels per degree, their default.
"""

from __future__ import annotations

import flip_evaluator
import numpy as np
import torch

from davatar.core.errors import DataError

PIXELS_PER_DEGREE = 67.0


class Flip:
    name = "flip"
    higher_is_better = False

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> float:
        """Mean FLIP error of a batch.

        Args:
            prediction, target: [N, 3, H, W] float32, 0..1.
            mask: [N, H, W] float 0..1 or None; only what it covers counts.

        Raises:
            DataError: the mask covers nothing.
        """
        errors = np.stack([error_map(*pair) for pair in zip(_pictures(prediction), _pictures(target), strict=True)])
        if mask is None:
            return float(errors.mean())
        weight = mask.detach().cpu().numpy().astype(np.float64)
        if weight.sum() <= 0:
            raise DataError("the mask is empty in every picture")
        return float((errors * weight).sum() / weight.sum())


def error_map(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[H, W] float32, 0..1, of two pictures [H, W, 3] float32 sRGB 0..1."""
    error, _, _ = flip_evaluator.evaluate(
        target, prediction, "LDR", applyMagma=False, parameters={"ppd": PIXELS_PER_DEGREE}
    )
    return error[..., 0]


def _pictures(images: torch.Tensor) -> np.ndarray:
    """[N, 3, H, W] -> contiguous [N, H, W, 3] float32 within 0..1, as the evaluator wants them."""
    return np.ascontiguousarray(images.detach().cpu().clamp(0, 1).permute(0, 2, 3, 1).numpy(), np.float32)
