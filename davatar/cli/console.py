"""The one console: results on stdout, progress and messages on stderr, errors as one sentence (design 7).

`out`, `table` and `result` print results; `progress` gives domain functions their `Progress`; and
`run_command` is where every exception of a command becomes a sentence and an exit code.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typer import Abort, TyperException

from davatar.core.errors import DavatarError
from davatar.core.interrupt import RESUME
from davatar.core.progress import Progress, Task

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_EVERY = 5.0  # s between two lines where there is no terminal


@dataclass
class State:
    """What the global options of this invocation say."""

    quiet: bool = False  # no progress, no information; warnings and errors stay
    json: bool = False  # stdout carries exactly one JSON document
    debug: bool = False  # errors come with their traceback
    verbose: int = 0  # 1: information of the log, 2: everything


state = State()


def configure(quiet: bool = False, json: bool = False, debug: bool = False, verbose: int = 0) -> None:
    """Set the state of this invocation and the level of the `davatar` log, which goes to stderr."""
    state.quiet, state.json, state.debug, state.verbose = quiet, json, debug, verbose
    levels = [logging.WARNING, logging.INFO, logging.DEBUG]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    log = logging.getLogger("davatar")
    log.handlers[:] = [handler]
    log.setLevel(logging.ERROR if quiet else levels[min(verbose, 2)])


def _stdout() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 1000  # a pipe has no width: fold nothing
    return Console(file=sys.stdout, highlight=False, soft_wrap=True, emoji=False, width=width)


def _stderr() -> Console:
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, soft_wrap=True, emoji=False)


def out(text: str) -> None:
    """A line of the result on stdout, as it stands; nothing with --json, where `result` speaks."""
    if not state.json:
        print(text, flush=True)


def result(value: Any, text: str | None = None) -> None:
    """The result: `value` as JSON with --json, else `text` (default: nothing, when `out` or `table` said it)."""
    if state.json:
        print(json.dumps(value, indent=2, default=str), flush=True)
    elif text is not None:
        out(text)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """Rows on stdout; nothing with --json."""
    if state.json:
        return
    from rich import box
    from rich.table import Table as RichTable

    grid = RichTable(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        grid.add_row(*("" if cell is None else _escaped(cell) for cell in row))
    _stdout().print(grid)


def _escaped(cell: Any) -> str:
    from rich.markup import escape

    return escape(f"{cell:.4g}" if isinstance(cell, float) else str(cell))


def confirm(question: str) -> bool:
    """Ask on the terminal; where nobody can answer, the answer is no."""
    if not sys.stdin.isatty():
        return False
    _stderr().print(f"{question} [y/N] ", end="", markup=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def progress() -> Progress:
    """Bars on a terminal, a plain line every few seconds elsewhere, nothing but warnings with --quiet."""
    if state.quiet:
        return _Plain(sys.stderr, quiet=True)
    return _Bars(_stderr()) if sys.stderr.isatty() else _Plain(sys.stderr)


class _Plain:
    def __init__(self, file, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        self._file, self._quiet, self._clock = file, quiet, clock

    @contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        task = _PlainTask(self, label, total)
        yield task
        task.finish()

    def line(self, text: str) -> None:
        if not self._quiet:
            print(text, file=self._file, flush=True)

    def now(self) -> float:
        return self._clock()

    def info(self, message: str) -> None:
        self.line(message)

    def warn(self, message: str) -> None:
        print(f"warning: {message}", file=self._file, flush=True)


class _PlainTask:
    def __init__(self, plain: _Plain, label: str, total: float | None):
        self._plain, self._label, self._total = plain, label, total
        self._done, self._figures = 0.0, {}
        self._start = self._said = plain.now()

    def advance(self, n: float = 1, **figures: float) -> None:
        self._done += n
        self._figures.update(figures)
        if self._plain.now() - self._said >= PLAIN_EVERY:
            self._said = self._plain.now()
            self._plain.line(self._text())

    def finish(self) -> None:
        self._plain.line(f"{self._text(left=False)}, {_duration(self._plain.now() - self._start)}")

    def _text(self, left: bool = True) -> str:
        spent = max(self._plain.now() - self._start, 1e-9)
        of = "" if self._total is None else f"/{self._total:g}"
        parts = [f"{self._label}: {self._done:g}{of}"]
        if left and self._done:
            parts.append(f"{self._done / spent:.3g}/s")
            if self._total is not None:
                parts.append(f"{_duration(spent / self._done * max(self._total - self._done, 0))} left")
        return ", ".join(parts + _figures(self._figures))


class _Bars:
    """Rich bars; tasks inside tasks share one display."""

    def __init__(self, console: Console):
        from rich import progress as bars

        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeRemainingColumn(compact=True),
            bars.TextColumn("{task.fields[figures]}", style="dim"),
            console=console,
        )
        self._open = 0

    @contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        from rich.markup import escape

        if self._open == 0:
            self._bars.start()
        self._open += 1
        number = self._bars.add_task(escape(label), total=total, rate="", figures="")
        try:
            yield _BarTask(self._bars, number)
        finally:
            self._open -= 1
            self._bars.stop_task(number)
            if self._open == 0:
                self._bars.stop()
                for done in list(self._bars.task_ids):
                    self._bars.remove_task(done)

    def info(self, message: str) -> None:
        self._bars.console.print(message, markup=False, highlight=False)

    def warn(self, message: str) -> None:
        self._bars.console.print(f"warning: {message}", markup=False, highlight=False, style="yellow")


class _BarTask:
    def __init__(self, bars, number):
        self._bars, self._number, self._figures = bars, number, {}

    def advance(self, n: float = 1, **figures: float) -> None:
        self._figures.update(figures)
        task = next(task for task in self._bars.tasks if task.id == self._number)
        rate = f"{task.speed:.3g}/s" if task.speed else ""
        self._bars.update(self._number, advance=n, rate=rate, figures=", ".join(_figures(self._figures)))


def _figures(figures: dict[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def run_command(function: Callable[[], Any]) -> int:
    """Call `function` and turn whatever it raises into one sentence on stderr and the exit code of design 7."""
    try:
        code = function()
        return code if isinstance(code, int) and not isinstance(code, bool) else 0
    except BrokenPipeError:  # the reader of our output went away: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TyperException as error:
        return _usage(error)
    except Abort:
        return _say("stopped", 130)
    except DavatarError as error:
        return _say(str(error), error.exit_code, error)
    except KeyboardInterrupt:
        return _say(f"stopped; what was finished is saved ({RESUME})", 130)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _say("the disk is full (free space and run the command again)", 6, error)
        return _internal(error)
    except Exception as error:  # the last resort: whatever no layer below has translated
        if _out_of_memory(error):
            return _say("out of memory (close other programs, or choose a smaller preset or size)", 6, error)
        return _internal(error)


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, on a GPU
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's, on a CPU


def _usage(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    text = error.format_message()
    if context is not None and text == context.get_help():  # a group without a command
        print(text, file=sys.stderr)
        return 2
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    return _say(f"{text.rstrip('.')}{hint}", 2)


def _internal(error: Exception) -> int:
    where = "" if state.debug else " (run again with --debug to see where, and report it)"
    return _say(f"internal error: {type(error).__name__}: {error}{where}", 1, error)


def _say(text: str, code: int, error: BaseException | None = None) -> int:
    if state.debug and error is not None:
        traceback.print_exception(error, file=sys.stderr)
    _stderr().print(f"[red]davatar:[/] {_escaped(text)}")
    return code
