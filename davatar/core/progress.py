"""The progress protocol: how a domain function tells that it advances, without printing.

Domain functions take `progress: Progress = silent`. The command line passes its console, a
notebook `Bars()`; tests pass nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

log = logging.getLogger("davatar")


class Task(Protocol):
    def advance(self, n: float = 1, **figures: float) -> None:
        """`n` of the task's total are done; `figures` (loss=..., fps=...) are shown beside the bar."""


class Progress(Protocol):
    def task(self, label: str, total: float | None = None) -> AbstractContextManager[Task]:
        """A bar of `total` units (items, steps or seconds; None = unknown) while the context lasts."""

    def info(self, message: str) -> None:
        """A line worth reading."""

    def warn(self, message: str) -> None:
        """Something was skipped or guessed; the line names the frame or file."""


class _SilentTask:
    def advance(self, n: float = 1, **figures: float) -> None:
        pass


class _Silent:
    """No bars; messages go to the `davatar` logger."""

    def task(self, label: str, total: float | None = None) -> AbstractContextManager[Task]:
        return nullcontext(_SilentTask())

    def info(self, message: str) -> None:
        log.info(message)

    def warn(self, message: str) -> None:
        log.warning(message)


silent: Progress = _Silent()


class _TqdmTask:
    def __init__(self, bar):
        self._bar = bar

    def advance(self, n: float = 1, **figures: float) -> None:
        self._bar.update(n)
        if figures:
            self._bar.set_postfix(figures)


class Bars:
    """tqdm bars for notebooks and scripts: `track(..., progress=Bars())`."""

    @contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        from tqdm.auto import tqdm

        with tqdm(desc=label, total=total) as bar:
            yield _TqdmTask(bar)

    def info(self, message: str) -> None:
        from tqdm.auto import tqdm

        tqdm.write(message)

    def warn(self, message: str) -> None:
        self.info(f"warning: {message}")
