from __future__ import annotations

import logging

from davatar.core.progress import Bars, silent


def test_silent_logs_and_draws_nothing(caplog, capfd):
    with caplog.at_level(logging.INFO, logger="davatar"), silent.task("fit", 2) as task:
        task.advance(loss=1.0)
        silent.warn("frame 00012 has no head")
    assert [(record.levelname, record.message) for record in caplog.records] == [("WARNING", "frame 00012 has no head")]
    assert capfd.readouterr().err == ""


def test_bars_are_tqdm_with_figures(capfd):
    bars = Bars()
    with bars.task("fit", 4) as task:
        task.advance(3, loss=0.5)
        bars.warn("frame 00012 has no head")
    captured = capfd.readouterr()
    assert "fit:  75%" in captured.err and "loss=0.5" in captured.err
    assert "warning: frame 00012 has no head" in captured.out
