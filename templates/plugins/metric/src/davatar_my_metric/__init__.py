"""my-metric: mean absolute error of the colours, 0 (equal) to 1.

Pictures [N, 3, H, W] float, sRGB 0..1; the contract is `davatar.evaluation.metric.Metric`.
"""

from __future__ import annotations

import torch


class MyMetric:
    name = "my_metric"  # key in the result
    higher_is_better = False

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> float:
        """
        Args:
            prediction, target: [N, 3, H, W] float32, 0..1.
            mask: [N, H, W] float 0..1 or None; only what it covers counts.
        """
        error = (prediction - target).abs().mean(dim=1)
        if mask is None:
            return error.mean().item()
        return ((error * mask).sum() / mask.sum().clamp(min=1e-12)).item()
