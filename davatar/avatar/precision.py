"""Which number format is fast here: bfloat16 pays only on processors that have instructions for it."""

from __future__ import annotations

import time
from functools import cache

import torch
import torch.nn.functional as F


@cache
def fastest(device: str = "cpu") -> torch.dtype:
    """float32 or bfloat16, whichever finishes one convolution of the small avatar's size sooner."""
    seconds = {dtype: _time_convolution(torch.device(device), dtype) for dtype in (torch.float32, torch.bfloat16)}
    return min(seconds, key=seconds.get)


def _time_convolution(device: torch.device, dtype: torch.dtype) -> float:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 64, 32, 32, generator=generator).to(device, dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, generator=generator).to(device, dtype)
    best = float("inf")
    for _ in range(5):  # the first runs build the kernel; the best of the rest is free of interruptions
        start = time.perf_counter()
        F.conv2d(x, weight, padding=1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
