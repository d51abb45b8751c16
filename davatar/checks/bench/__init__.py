"""`davatar bench`: side by side, in one run, what a straightforward implementation takes and what ours takes.

A bench is a module with a function `(options: Options, progress: Progress) -> list[Row]`, named in `BENCHES`.
"""

from __future__ import annotations

from importlib import import_module

from davatar.checks.bench.rows import Options, Row
from davatar.core.errors import UsageError
from davatar.core.progress import Progress, silent

BENCHES = {
    "avatar": "davatar.checks.bench.avatar:avatar",
    "head-model": "davatar.checks.bench.head_model:head_model",
}


def bench(name: str, options: Options, progress: Progress = silent) -> list[Row]:
    """Run the bench called `name`.

    Raises:
        UsageError: no bench has that name.
    """
    if name not in BENCHES:
        raise UsageError(f"there is no bench {name!r}", mend=f"choose one of: {', '.join(BENCHES)}")
    module, _, function = BENCHES[name].partition(":")
    return getattr(import_module(module), function)(options, progress)
