"""Chains of stages: what is done stays done, and what changed is done again."""

import os
import signal

import pytest

from davatar.checks.stages import Stage, peak_memory_gb, run_stages
from davatar.core.errors import DataError, Interrupted
from davatar.core.journal import Journal


class Chain:
    """Three stages that write a file each and note that they ran."""

    def __init__(self, folder, settings=(1, 1, 1), break_in=None):
        self.folder, self.ran, self.break_in = folder, [], break_in
        self.stages = [
            Stage(name, name.title(), self.work(name), value)
            for name, value in zip(("one", "two", "three"), settings, strict=True)
        ]

    def work(self, name):
        def do(results, progress):
            if self.break_in == name:
                raise DataError("broken")
            self.ran.append(name)
            path = self.folder / name
            path.write_text(name)
            return {"sum": sum(done.figures["sum"] for done in results.values()) + 1}, [path]

        return do

    def run(self):
        return run_stages(self.stages, Journal(self.folder / "journal.jsonl"))


def test_second_run_repeats_nothing_and_knows_everything(tmp_path):
    first = Chain(tmp_path).run()
    again = Chain(tmp_path)
    second = again.run()
    assert again.ran == []
    assert [done.figures["sum"] for done in second.values()] == [1, 2, 4]
    assert [done.seconds for done in second.values()] == [done.seconds for done in first.values()]
    assert all(done.reused for done in second.values()) and not any(done.reused for done in first.values())


def test_changed_settings_repeat_the_stage_and_what_follows(tmp_path):
    Chain(tmp_path).run()
    changed = Chain(tmp_path, settings=(1, 2, 1))
    changed.run()
    assert changed.ran == ["two", "three"]


def test_lost_output_is_made_again(tmp_path):
    Chain(tmp_path).run()
    (tmp_path / "two").unlink()
    again = Chain(tmp_path)
    again.run()
    assert again.ran == ["two"]


def test_failure_keeps_earlier_stages_and_is_marked_as_resumed(tmp_path):
    with pytest.raises(DataError, match="broken"):
        Chain(tmp_path, break_in="two").run()
    again = Chain(tmp_path)
    results = again.run()
    assert again.ran == ["two", "three"]
    assert [done.resumed for done in results.values()] == [False, True, False]


def test_signal_stops_between_stages(tmp_path):
    chain = Chain(tmp_path)
    first = chain.stages[0]

    def work(results, progress):
        os.kill(os.getpid(), signal.SIGTERM)
        return first.work(results, progress)

    chain.stages[0] = Stage(first.name, first.title, work, first.settings)
    with pytest.raises(Interrupted):
        chain.run()
    assert chain.ran == ["one"]
    again = Chain(tmp_path)
    again.run()
    assert again.ran == ["two", "three"]


@pytest.mark.skipif(os.name != "posix", reason="the system does not tell")
def test_memory_is_in_gigabytes():
    assert 0.01 < peak_memory_gb() < 100
