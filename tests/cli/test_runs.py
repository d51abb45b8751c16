from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from davatar.core import runs
from davatar.core.lock import exclusive
from davatar.core.manifest import session
from davatar.core.settings import resolve


@dataclass(frozen=True)
class Toy:
    rate: float = 0.1
    steps: int = 5


@pytest.fixture
def two_runs():
    made = []
    for name, rate in (("anna", 0.1), ("bob", 0.2)):
        run = runs.create_run(name=name)
        with session(run.folder, seed=1, command=["davatar", "avatar", "train", name]):
            run.write_config(resolve(Toy, sets=[f"rate={rate}"], component="toy", environ={}))
            run.log(5, loss=rate / 2)
            with run.checkpoint(5) as folder:
                (folder / "model.safetensors").write_text("x")
        made.append(run)
    return made


def test_list_is_empty_at_first_and_then_shows_state_and_figures(cli):
    assert cli("runs", "list").out == "no runs yet: `davatar demo` makes one\n"
    assert json.loads(cli("runs", "list", "--json").out) == []


def test_list_show_and_compare(cli, two_runs):
    listed = json.loads(cli("runs", "list", "--json").out)
    assert [(row["name"], row["status"], row["step"], row["last"]["loss"]) for row in listed] == [
        ("DA-1-anna", "done", 5, 0.05),
        ("DA-2-bob", "done", 5, 0.1),
    ]
    assert "DA-2-bob" in cli("runs", "list").out and "loss 0.1" in cli("runs", "list").out
    shown = json.loads(cli("runs", "show", "bob", "--json").out)
    assert shown["config"] == {"rate": 0.2, "steps": 5} and shown["checkpoints"] == [5]
    assert shown["manifest"]["sessions"][0]["command"] == ["davatar", "avatar", "train", "bob"]
    assert "config.rate" in cli("runs", "show", "DA-2").out
    compared = json.loads(cli("runs", "compare", "anna", "bob", "--json").out)
    assert compared["settings"] == {"rate": [0.1, 0.2]} and compared["figures"]["loss"] == [0.05, 0.1]
    assert cli("runs", "compare", "anna").code == 2


def test_a_run_that_was_killed_early_can_still_be_listed_and_shown(cli):
    run = runs.create_run(name="killed")
    (run.folder / "manifest.json").write_text('{"sess')
    assert json.loads(cli("runs", "list", "--json").out)[0]["status"] == "unknown"
    assert cli("runs", "show", "killed").code == 3


def test_rm_asks_and_spares_what_is_in_use_or_published(cli, two_runs):
    folder = two_runs[0].folder
    outcome = cli("runs", "rm", "anna")
    assert outcome.code == 2 and "was not removed" in outcome.err and folder.is_dir()
    with exclusive(folder):
        assert cli("runs", "rm", "anna", "--yes").code == 2
    assert folder.is_dir()
    assert cli("runs", "rm", "anna", "--yes").code == 0 and not folder.exists()
    assert cli("runs", "rm", "anna", "--yes").code == 4
    (two_runs[1].folder / "model_config.json").write_text("{}")
    assert cli("runs", "rm", "bob", "--yes").code == 2 and two_runs[1].folder.is_dir()
