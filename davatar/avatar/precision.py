"""Which number format a network computes in. Weights, losses and what is stored stay float32."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def choose(wanted: str, kind: str, device: str = "cpu") -> torch.dtype:
    """
    Args:
        wanted: a name of torch's, or "auto": for the small avatar whichever is measured to be faster; for the
            published kind half precision on a GPU (16 bits halve the frozen base) and float32 on a CPU.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if kind == "tiny":
        return fastest(device)
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def for_painting(
    wanted: str, kind: str, device: str = "cpu", trained: str = "auto", compat: bool = False
) -> torch.dtype:
    """The one rule of `render` and `eval`.

    Args:
        wanted: a name of torch's, or "auto": the small avatar as it was trained; the published kind float16 on a GPU,
            which keeps three bits more than bfloat16, and float32 on a CPU.
        trained: the precision that the small avatar's settings name.
        compat: "auto" is float32.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if kind == "tiny":
        return choose(trained, kind, device)
    return torch.float16 if torch.device(device).type == "cuda" and not compat else torch.float32


@cache
def fastest(device: str = "cpu") -> torch.dtype:
    """float32 or bfloat16, whichever finishes one convolution of the small avatar's size sooner.

    bfloat16 pays only on processors that have instructions for it.
    """
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
