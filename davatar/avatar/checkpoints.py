"""Whole training states: weights, optimisers, position. Folders come from `core.runs.Run.checkpoint`.

Randomness needs no state of its own: what is drawn at step k is a function of (seed, k, process).
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from davatar.avatar.weights import read_weights, save_weights
from davatar.core.errors import DataError
from davatar.core.files import atomic_path, read_json, write_json
from davatar.core.runs import Run

WEIGHTS, OPTIMIZERS, POSITION = "model.safetensors", "optimizers.pt", "position.json"


@dataclass(frozen=True)
class Position:
    step: int = 0  # finished steps
    seconds: float = 0.0  # of training, by the budget's clock
    seed: int = 0
    processes: int = 1


def randomness(seed: int, step: int, process: int = 0) -> np.random.Generator:
    """The generator of one training step: the same whether or not the training was interrupted before it."""
    return np.random.default_rng([seed, step, process])


def save_state(
    run: Run,
    tensors: Mapping[str, torch.Tensor],
    kind: str,
    config: Mapping[str, Any],
    optimizers: Sequence[torch.optim.Optimizer],
    position: Position,
    keep: int = 0,
) -> Path:
    """Write `checkpoints/step-...` atomically and delete all but the newest `keep` (0 keeps all).

    Args:
        tensors: the trained part of the avatar.
    """
    with run.checkpoint(position.step) as folder:
        save_weights(folder / WEIGHTS, tensors, kind, config, step=str(position.step))
        with atomic_path(folder / OPTIMIZERS) as temporary:
            torch.save([optimizer.state_dict() for optimizer in optimizers], temporary)
        write_json(folder / POSITION, asdict(position))
    saved = run.checkpoints()
    if keep:
        for step in sorted(saved)[:-keep]:
            shutil.rmtree(saved[step], ignore_errors=True)
    return saved[position.step]


def load_state(
    folder: Path,
    load: Callable[[dict[str, torch.Tensor], Path], None],
    kind: str,
    config: Mapping[str, Any],
    optimizers: Sequence[torch.optim.Optimizer],
) -> Position:
    """Restore what `save_state` wrote.

    Args:
        load: takes the tensors, and the file they are from.

    Raises:
        DataError: a file is absent or truncated, or belongs to an avatar of other sizes.
    """
    tensors, _ = read_weights(folder / WEIGHTS, kind, config)
    load(tensors, folder / WEIGHTS)
    path = folder / OPTIMIZERS
    try:
        states = torch.load(path, map_location="cpu", weights_only=True)
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(state)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(
            f"is not this training's optimiser state: {error}", file=path, mend=f"delete {folder} to resume before it"
        ) from error
    return Position(**read_json(folder / POSITION))
