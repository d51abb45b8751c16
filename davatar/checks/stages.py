"""A chain of stages that remembers what is done, so that a killed chain goes on and a finished one costs nothing.

A stage is done again when its own settings or those of a stage before it changed, or when one of its outputs is
gone. What it returned, its seconds and the memory peak stand in the journal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from davatar.core.content import hash_value
from davatar.core.interrupt import interruptible
from davatar.core.journal import Journal
from davatar.core.progress import Progress, silent


@dataclass(frozen=True)
class Done:
    figures: dict[str, Any] = field(default_factory=dict)  # what the stage returned, JSON values
    outputs: tuple[str, ...] = ()  # files and folders it made
    seconds: float = 0.0  # wall time of the session that finished it
    cpu_seconds: float = 0.0  # of the process and its ended children; what counts on a busy computer
    peak_gb: float | None = None  # largest memory of the process until then; None where the system does not tell
    resumed: bool = False  # an earlier session began it, so `seconds` is not all of it
    reused: bool = False  # an earlier session finished it


@dataclass(frozen=True)
class Stage:
    name: str  # key in the journal
    title: str  # for people
    work: Callable[[dict[str, Done], Progress], tuple[dict[str, Any], Sequence[Path]]]  # -> figures, outputs
    settings: Any = None  # JSON values that decide the result
    weight: float = 1.0  # share of the whole chain's time, in any unit: for the time left


def run_stages(stages: Sequence[Stage], journal: Journal, progress: Progress = silent) -> dict[str, Done]:
    """Do what is not done yet, in order.

    Raises:
        Interrupted: a signal arrived; finished stages stay finished.
        DavatarError: a stage failed; those before it stay finished.
    """
    results: dict[str, Done] = {}
    content = ""
    with interruptible() as stop, progress.task("all stages", sum(s.weight for s in stages)) as task:
        for stage in stages:
            content = hash_value([content, stage.name, stage.settings])
            results[stage.name] = _earlier(stage, content, journal) or _do(stage, content, results, journal, progress)
            task.advance(stage.weight)
            stop.check()
    return results


def _earlier(stage: Stage, content: str, journal: Journal) -> Done | None:
    if not journal.done(stage.name, content):
        return None
    done = Done(**journal.figures(stage.name, content))
    return replace(done, reused=True) if all(Path(path).exists() for path in done.outputs) else None


def _do(stage: Stage, content: str, results: dict[str, Done], journal: Journal, progress: Progress) -> Done:
    progress.info(stage.title)
    begun = f"{stage.name}:begun"
    resumed = journal.done(begun, content) and not journal.done(stage.name, content)
    journal.mark(begun, content)
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    figures, outputs = stage.work(results, progress)
    done = Done(
        figures=figures,
        outputs=tuple(str(Path(path).absolute()) for path in outputs),
        seconds=time.perf_counter() - start,
        cpu_seconds=_cpu_seconds() - cpu_start,
        peak_gb=peak_memory_gb(),
        resumed=resumed,
    )
    journal.mark(stage.name, content, **asdict(done))
    return done


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def peak_memory_gb() -> float | None:
    """Largest resident memory of this process or of one of its ended children, 10^9 bytes; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(one).ru_maxrss for one in who) * unit / 1e9
