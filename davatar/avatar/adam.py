"""AdamW with its state in 32 or, from the package bitsandbytes, in 8 bits per number: a quarter of the memory."""

from __future__ import annotations

from typing import Any

import torch

from davatar.core.errors import MissingError


def adamw(groups: list[dict[str, Any]], eight_bit: bool = False) -> torch.optim.Optimizer:
    """
    Raises:
        MissingError: 8 bits are asked for and bitsandbytes is not installed.
    """
    if not eight_bit:
        return torch.optim.AdamW(groups)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MissingError(
            "8-bit Adam needs bitsandbytes",
            mend="pip install bitsandbytes, or --set published_training.eight_bit_adam=false (more memory)",
        ) from error
    return AdamW8bit(groups)
