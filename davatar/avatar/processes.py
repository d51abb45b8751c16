"""Several processes of one training (`accelerate launch`): who does what only one may do.

Without a launcher there is one process, and nothing here costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # the others wait while the first one rasterises


def count() -> int:
    """How many processes train together, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    return int(os.environ.get("RANK", 0)) == 0


def left_alone() -> bool:
    """Whether `accelerate launch` was asked for several processes and started this one only, as it does on CPUs."""
    asked = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    return asked and "WORLD_SIZE" not in os.environ


def connect() -> None:
    """Meet the other processes; nothing happens where there are none, or the second time."""
    if count() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def first(work: Callable[[], T]) -> T:
    """What `work` returns on the first process, for every process; an exception likewise."""
    if count() == 1:
        return work()
    connect()
    from torch.distributed import broadcast_object_list

    found: list[Any] = [None]
    if is_first():
        try:
            found = [(work(), None)]
        except BaseException as error:  # the others must not wait for ever, whatever it was
            found = [(None, error)]
    broadcast_object_list(found, src=0)
    value, error = found[0]
    if error is not None:
        raise error
    return value
