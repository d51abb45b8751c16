"""What a training says about itself: metrics.jsonl, and through accelerate TensorBoard and Weights & Biases.

Losses are means since the last line; by noise level they tell whether coarse shape or fine detail still
improves: `loss/noise_25-50` is the loss of frames whose level lay between a quarter and a half of the way to
pure noise, `loss/noise_100` that of pure noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, is_tensorboard_available, is_wandb_available

from davatar.avatar import processes
from davatar.avatar.settings import AvatarSettings
from davatar.avatar.trainer import Stepped
from davatar.core.errors import MissingError
from davatar.core.runs import Run
from davatar.core.settings import to_mapping

PROJECT = "davatar"
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def open_accelerator(run: Run, settings: AvatarSettings) -> Accelerator:
    """The processes that train together, with the trackers that the settings name.

    Raises:
        MissingError: a tracker's package is not installed.
    """
    available = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    for name in settings.trackers:
        if not available[name]():
            raise MissingError(f"the tracker {name} is not installed", mend=f"pip install 'davatar[{name}]'")
    processes.connect()
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        log_with=list(settings.trackers) or None,
        project_config=ProjectConfiguration(str(run.folder), logging_dir=str(run.folder / "tensorboard")),
    )
    if settings.trackers:
        wandb = {"name": run.name, "dir": str(run.folder)}
        accelerator.init_trackers(PROJECT, _flat(to_mapping(settings)), init_kwargs={"wandb": wandb})
    return accelerator


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    flat: dict[str, str | int | float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float) else str(value)
    return flat


class TrainingLog:
    """Collects steps and writes lines; on the first process only."""

    def __init__(self, run: Run, accelerator: Accelerator):
        self.run, self.accelerator = run, accelerator
        self._steps: list[Stepped] = []

    def add(self, stepped: Stepped) -> None:
        self._steps.append(stepped)

    def write(self, step: int, **figures: float) -> dict[str, float]:
        """A line of what was collected, and `figures`; returns the collected part."""
        losses = np.concatenate([stepped.losses for stepped in self._steps])
        levels = np.concatenate([stepped.levels for stepped in self._steps])
        norms = [stepped.norm for stepped in self._steps]
        found = {"loss": float(losses.mean()), **by_level(losses, levels), "gradient_norm": float(np.mean(norms))}
        self._steps.clear()
        self.run.log(step, **found, **figures)
        self.accelerator.log({**found, **figures}, step=step)
        return found

    def close(self) -> None:
        for tracker in self.accelerator.trackers:
            tracker.finish()


def by_level(losses: np.ndarray, levels: np.ndarray) -> dict[str, float]:
    """Mean loss in each range of noise levels that occurred.

    Args:
        losses, levels: [N].
    """
    found = {}
    for low, high in zip(LEVELS, LEVELS[1:], strict=False):
        inside = (levels >= low) & (levels < high)
        if inside.any():
            found[f"loss/noise_{low:.0%}-{high:.0%}".replace("%", "")] = float(losses[inside].mean())
    if (levels == 1).any():
        found["loss/noise_100"] = float(losses[levels == 1].mean())
    return found
