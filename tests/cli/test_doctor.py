from __future__ import annotations

import json

from davatar.checks import doctor


def test_a_sound_installation_passes(cli):
    outcome = cli("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(outcome.out)}
    assert findings.keys() == doctor.CHECKS.keys()
    assert {name for name, finding in findings.items() if finding["state"] == "bad"} == set(), outcome.out
    assert outcome.code == 0


def test_what_is_broken_is_named_and_the_other_checks_go_on(cli, monkeypatch):
    def broken():
        raise RuntimeError("no codec")

    monkeypatch.setattr(doctor, "CHECKS", {"video": broken, "python": doctor.python})
    outcome = cli("doctor", "--json")
    assert outcome.code == 5 and "trouble with video" in outcome.err
    assert [(f["name"], f["state"]) for f in json.loads(outcome.out)] == [("video", "bad"), ("python", "ok")]


def test_a_folder_that_cannot_be_written_says_which_variable_moves_it(monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    finding = doctor.disk()
    assert finding.state == "bad" and finding.mend == "set DAVATAR_DATA"
