"""Whole training states: weights, optimisers, position. Folders come from `core.runs.Run.checkpoint`.

Randomness needs no state of its own: what is drawn at step k is a function of (seed, k, place in the step).
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from davatar.avatar.weights import read_weights, save_weights
from davatar.core.errors import DataError
from davatar.core.files import atomic_path, read_json, write_json
from davatar.core.runs import Run

WEIGHTS, OPTIMIZERS, POSITION = "model.safetensors", "optimizers.pt", "position.json"
AVERAGE = "average.safetensors"  # of the weights over steps, where the training keeps one; what is painted with
SCALER = "scaler.json"  # of the loss, in half precision


@dataclass(frozen=True)
class Position:
    step: int = 0  # finished steps
    seconds: float = 0.0  # of training, by the budget's clock
    seed: int = 0
    frames: int = 0  # per step, over all processes; 0 = not said


def randomness(seed: int, step: int, place: int = 0) -> np.random.Generator:
    """The generator of one frame of one training step: the same however often the training was interrupted."""
    return np.random.default_rng([seed, step, place])


def save_state(
    run: Run,
    tensors: Mapping[str, torch.Tensor],
    kind: str,
    config: Mapping[str, Any],
    optimizers: Sequence[torch.optim.Optimizer],
    position: Position,
    keep: int = 0,
    average: Mapping[str, torch.Tensor] | None = None,
    scaler: Mapping[str, float] | None = None,
) -> Path:
    """Write `checkpoints/step-...` atomically and delete all but the newest `keep` (0 keeps all).

    Args:
        tensors: the trained part of the avatar.
        average: of these tensors over steps.
        scaler: state of the loss scale.
    """
    with run.checkpoint(position.step) as folder:
        save_weights(folder / WEIGHTS, tensors, kind, config, step=str(position.step))
        if average is not None:
            save_weights(folder / AVERAGE, average, kind, config, step=str(position.step))
        if scaler:
            write_json(folder / SCALER, dict(scaler))
        with atomic_path(folder / OPTIMIZERS) as temporary:
            torch.save([optimizer.state_dict() for optimizer in optimizers], temporary)
        write_json(folder / POSITION, asdict(position))
    saved = run.checkpoints()
    if keep:  # a torn checkpoint that was passed over may bear a higher step: it is none of the newest
        for step in [step for step in saved if step <= position.step][:-keep]:
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
    known = {field.name for field in fields(Position)}  # an earlier version wrote others besides
    return Position(**{name: value for name, value in read_json(folder / POSITION).items() if name in known})
