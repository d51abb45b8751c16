"""Where the figures of a training go: accelerate's trackers, ours among them (`metrics.jsonl` of the run)."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from davatar.core.errors import ConfigError
from davatar.core.progress import Progress, silent
from davatar.core.run_tracker import RunTracker
from davatar.core.runs import Run

KNOWN = ("tensorboard", "wandb")
FOLDER = "tensorboard"  # inside the run (design 3)


def tracked_accelerator(run: Run, names: Sequence[str], mixed_precision: str, progress: Progress = silent):
    """An accelerator that logs into `run`, and to `names` of accelerate's trackers where they are installed.

    Raises:
        ConfigError: a tracker that nobody knows.
    """
    for name in names:
        if name not in KNOWN:
            raise ConfigError(f"tracker {name!r}, expected {' or '.join(KNOWN)}")
    installed = {str(tracker) for tracker in get_available_trackers()}
    for name in sorted(set(names) - installed):
        progress.info(f"{name} is not installed: figures go to metrics.jsonl (pip install 'davatar[{name}]')")
    wanted = [name for name in names if name in installed]
    return Accelerator(
        mixed_precision=mixed_precision, log_with=[RunTracker(run), *wanted], project_dir=str(run.folder)
    )


def start_trackers(accelerator: Accelerator, step: int) -> None:
    """Open them; TensorBoard forgets what an interrupted run logged after `step`."""
    accelerator.init_trackers(FOLDER, init_kwargs={"tensorboard": {"purge_step": step}})
