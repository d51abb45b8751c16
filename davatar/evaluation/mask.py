"""What of a picture counts: the head's pixels, grown a little."""

from __future__ import annotations

import torch


def grown(mask: torch.Tensor, pixels: int = 2) -> torch.Tensor:
    """[N, H, W], 0 = not covered -> 0 or 1 as float, every covered pixel widened by `pixels`."""
    covered = (mask > 0).float()[:, None]
    return torch.nn.functional.max_pool2d(covered, 2 * pixels + 1, 1, pixels)[:, 0]
