"""What a bench is told, what it returns, and how it measures.

Both ways run in turn, again and again, so that whatever else the computer does slows both; on a processor the
clock is the process's own CPU time divided by its threads, which other programs hardly move. Figures are medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Options:
    threads: int = 1  # of the processor
    seconds: float = 10.0  # about how long one row may measure
    resolution: int = 256  # samples per axis, where a bench extracts surfaces
    device: str = "cpu"
    quick: bool = False  # leave out what takes minutes
    preset: str = "tiny"  # of the avatar's bench: tiny, published, published-small


@dataclass(frozen=True)
class Row:
    """One comparison; `None` where there is nothing to compare with."""

    what: str
    plain: float | None
    ours: float
    unit: str  # of both
    ratio: float | None  # how many times better ours is; what else it is says `note`
    note: str = ""


@dataclass(frozen=True)
class Timing:
    median: float  # s
    runs: int


def clock(options: Options) -> Callable[[], float]:
    """Seconds so far, as the device counts them."""
    if options.device == "cpu":
        return lambda: time.process_time() / options.threads
    import torch

    def wall() -> float:
        torch.cuda.synchronize(options.device)
        return time.perf_counter()

    return wall


def in_turn(ways: dict[str, Callable[[], Any]], options: Options, most: int = 9) -> dict[str, Timing]:
    """Time each of `ways`, one after the other, round after round, for about `options.seconds`."""
    now, taken, begin = clock(options), {name: [] for name in ways}, time.perf_counter()
    while True:
        for name, way in ways.items():
            start = now()
            way()
            taken[name].append(now() - start)
        rounds = len(next(iter(taken.values())))
        spent = time.perf_counter() - begin
        if rounds >= most or spent * (rounds + 1) / rounds > options.seconds:
            return {name: Timing(max(median(values), 1e-9), rounds) for name, values in taken.items()}
