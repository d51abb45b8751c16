"""Going on where a training stopped: at its latest checkpoint that is whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from davatar.avatar.checkpoints import AVERAGE, SCALER, Position, load_state
from davatar.avatar.model import Avatar
from davatar.avatar.weights import check_fit, read_weights
from davatar.core.errors import DataError, UsageError
from davatar.core.files import read_json
from davatar.core.progress import Progress
from davatar.core.runs import Run


@dataclass(frozen=True)
class Resumed:
    position: Position
    average: dict[str, torch.Tensor] | None  # of the weights
    scaler: dict | None  # state of the loss scale


def resume(
    run: Run, avatar: Avatar, optimizers: Sequence[torch.optim.Optimizer], asked: Position, progress: Progress
) -> Resumed | None:
    """Load avatar and optimisers; None where the run has no checkpoint yet.

    A torn checkpoint is passed over for the one before it, with a warning that names the file.

    Args:
        asked: seed and frames per step that must not change.

    Raises:
        DataError: no checkpoint is whole, or they belong to an avatar of other sizes; about the latest one.
        UsageError: the run has another seed or other frames per step.
    """
    latest = run.latest_checkpoint()
    if latest is None:
        return None
    errors: list[DataError] = []
    for _, folder in sorted(((s, f) for s, f in run.checkpoints().items() if s <= latest[0]), reverse=True):
        try:
            found = _load(folder, avatar, optimizers)
        except DataError as error:
            errors.append(error)
            continue
        _check_same(found.position, asked, folder)
        for error in errors:
            progress.warn(f"{error.file}: {error.message}; going on from step {found.position.step} instead")
        return found
    raise errors[0]


def _load(folder: Path, avatar: Avatar, optimizers: Sequence[torch.optim.Optimizer]) -> Resumed:
    position = load_state(folder, avatar.load_trained, avatar.kind, avatar.sizes(), optimizers)
    average = None
    if (folder / AVERAGE).is_file():
        average, _ = read_weights(folder / AVERAGE, avatar.kind, avatar.sizes())
        check_fit(avatar.trained_state(), average, folder / AVERAGE)
    return Resumed(position, average, read_json(folder / SCALER) if (folder / SCALER).is_file() else None)


def _check_same(found: Position, asked: Position, folder: Path) -> None:
    if found.seed != asked.seed:
        raise UsageError(
            f"was trained with seed {found.seed}, asked for {asked.seed}",
            file=folder,
            mend="resume with the same, or start a new run",
        )
    if found.frames not in (0, asked.frames):
        raise UsageError(
            f"was trained with {found.frames} frames per step, asked for {asked.frames} "
            "(batch x accumulation x processes)",
            file=folder,
            mend="choose batch and accumulation so that their product fits, or start a new run",
        )
