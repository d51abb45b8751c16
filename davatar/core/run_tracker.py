"""Where the figures of a training go: accelerate's trackers, ours among them (`metrics.jsonl` of the run)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers, on_main_process

from davatar.core.errors import ConfigError
from davatar.core.progress import Progress, silent
from davatar.core.runs import Run

KNOWN = ("tensorboard", "wandb")
FOLDER = "tensorboard"  # inside the run (design 3)


class RunTracker(GeneralTracker):
    """Lines of the run's metrics.jsonl."""

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    @property
    def tracker(self) -> Run:
        return self.run

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """The run's config.yaml holds it already."""

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.run.log(step, **values)


def tracked_accelerator(
    run: Run, names: Sequence[str] = ("tensorboard",), progress: Progress = silent, mixed_precision: str | None = None
) -> Accelerator:
    """An accelerator that logs into `run`, and to `names` of accelerate's trackers where they are installed.

    Args:
        run: whose metrics.jsonl gets every figure, whatever else does; other trackers write into its folder.
        names: trackers besides, of `KNOWN`; empty for none.
        progress: told which of `names` are not installed.
        mixed_precision: "no", "bf16" or "fp16"; None: as the launcher of the processes says.

    Raises:
        ConfigError: a tracker that nobody knows.
    """
    for name in names:
        if name not in KNOWN:
            raise ConfigError(f"tracker {name!r}, expected {' or '.join(KNOWN)}")
    installed = {str(tracker) for tracker in get_available_trackers()}
    for name in sorted(set(names) - installed):
        progress.info(f"{name} is not installed: figures go to metrics.jsonl (pip install 'davatar[{name}]')")
    trackers = [RunTracker(run), *(name for name in names if name in installed)]
    return Accelerator(mixed_precision=mixed_precision, log_with=trackers, project_dir=str(run.folder))


def start_trackers(accelerator: Accelerator, step: int) -> None:
    """Open them; TensorBoard forgets what an interrupted run logged after `step`."""
    accelerator.init_trackers(FOLDER, init_kwargs={"tensorboard": {"purge_step": step}})
