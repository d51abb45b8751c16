"""What a stopped training goes on from: `state.pt` in the newest checkpoint of its run.

The file holds named entries (settings, step, weights, optimisers), written by torch and read with
weights-only semantics. What the entries mean is the training's business.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from davatar.core.errors import DataError, listed
from davatar.core.files import write_bytes
from davatar.core.runs import Run
from davatar.core.torch_errors import UNREADABLE, unreadable

STATE = "state.pt"


def save_state(run: Run, step: int, state: Mapping[str, Any]) -> None:
    """Make `state` the newest checkpoint of `run`.

    Raises:
        ResourceError: the disk is full; earlier checkpoints are as they were.
    """
    import torch

    buffer = io.BytesIO()  # a full disk under torch.save would be an error without a name
    torch.save(dict(state), buffer)
    with run.checkpoint(step) as folder:
        write_bytes(folder / STATE, buffer.getvalue())


def latest_state(run: Run, same: Mapping[str, Any], needed: Iterable[str]) -> dict[str, Any] | None:
    """Entries of the newest checkpoint; None before the first.

    Args:
        same: entries that must be as they were when it was written: a training goes on with its own settings only.
        needed: names of further entries that there must be.

    Raises:
        DataError: it is damaged, lacks an entry, or was made with other settings.
    """
    latest = run.latest_checkpoint()
    if latest is None:
        return None
    state = _read(latest[1] / STATE, {*same, *needed})
    if any(state[key] != value for key, value in same.items()):
        mend = "choose another output folder, or give the same settings"
        raise DataError("was made with other settings", file=run.folder, mend=mend)
    return state


def _read(path: Path, needed: set[str]) -> dict[str, Any]:
    import torch

    mend = "remove that checkpoint folder to go on from the one before"
    try:
        state = torch.load(path, weights_only=True)
        missing = needed - state.keys()
    except UNREADABLE as error:
        raise DataError(f"is not a readable training state: {unreadable(error)}", file=path, mend=mend) from error
    if missing:
        raise DataError(f"is no training state, it lacks {listed(sorted(missing))}", file=path, mend=mend)
    return state
