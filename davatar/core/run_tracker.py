"""accelerate's door to a run's `metrics.jsonl`, for every training that logs through accelerate's trackers."""

from __future__ import annotations

from typing import Any

from accelerate.tracking import GeneralTracker, on_main_process

from davatar.core.runs import Run


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
