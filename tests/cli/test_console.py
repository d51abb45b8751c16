from __future__ import annotations

import io

import pytest

from davatar.cli import console


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def test_plain_progress_says_a_line_every_few_seconds_and_one_at_the_end():
    clock, file = Clock(), io.StringIO()
    with console._Plain(file, clock=clock).task("fit", 100) as task:
        for _ in range(100):
            clock.time += 0.25
            task.advance(loss=0.123456)
    assert file.getvalue().splitlines() == [
        "fit: 20/100, 4/s, 0:20 left, loss 0.1235",
        "fit: 40/100, 4/s, 0:15 left, loss 0.1235",
        "fit: 60/100, 4/s, 0:10 left, loss 0.1235",
        "fit: 80/100, 4/s, 0:05 left, loss 0.1235",
        "fit: 100/100, 4/s, 0:00 left, loss 0.1235",
        "fit: 100/100, loss 0.1235, 0:25",
    ]


def test_a_total_that_is_not_known_has_no_time_left():
    clock, file = Clock(), io.StringIO()
    with console._Plain(file, clock=clock).task("read") as task:
        clock.time = 3700
        task.advance(10)
    assert file.getvalue().splitlines() == ["read: 10, 0.0027/s", "read: 10, 1:01:40"]


def test_quiet_keeps_warnings_only(capfd):
    console.configure(quiet=True)
    try:
        with console.progress().task("fit", 2) as task:
            task.advance()
        console.progress().info("by the way")
        console.progress().warn("frame 00012 has no head")
    finally:
        console.configure()
    assert capfd.readouterr().err == "warning: frame 00012 has no head\n"


def test_bars_can_be_nested_and_show_figures():
    from rich.console import Console

    file = io.StringIO()
    bars = console._Bars(Console(file=file, force_terminal=True, width=120, legacy_windows=False))
    with bars.task("all [stages]", 2) as outer:
        with bars.task("fit", 3) as inner:
            inner.advance(3, loss=0.5)
        bars.warn("frame [3] was skipped")
        outer.advance()
    text = file.getvalue()
    assert "all [stages]" in text and "3/3" in text and "loss 0.5" in text and "warning: frame [3] was skipped" in text
    assert bars._bars.task_ids == [] and not bars._bars.live.is_started


def test_bars_are_put_away_when_the_work_fails():
    from rich.console import Console

    bars = console._Bars(Console(file=io.StringIO(), force_terminal=True))
    with pytest.raises(ZeroDivisionError), bars.task("fit", 3):
        raise ZeroDivisionError
    assert not bars._bars.live.is_started


def test_an_out_of_memory_of_torch_is_recognised():
    """Its class on a GPU, its words on a CPU."""
    gpu = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
    cpu = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    assert [console._out_of_memory(error) for error in (gpu, cpu, RuntimeError("shape"))] == [True, True, False]
