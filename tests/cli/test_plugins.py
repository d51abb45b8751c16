from __future__ import annotations

import json


def test_list_shows_built_in_plugins_of_a_kind(cli):
    names = [plugin["name"] for plugin in json.loads(cli("plugins", "list", "metric", "--json").out)]
    assert {"psnr", "ssim", "ms-ssim"} <= set(names)
    assert "embree" in cli("plugins", "list").out
    assert cli("plugins", "list", "meter").code == 2


def test_check_runs_the_battery(cli):
    outcome = cli("plugins", "check", "metric", "psnr", "--json")
    assert outcome.code == 0
    (report,) = json.loads(outcome.out)
    assert report["ok"] and report["report"] == "imports and passes check_metric"
    assert cli("plugins", "check", "metric", "psn").code == 2


def test_check_reports_a_plugin_that_breaks_its_contract(cli, monkeypatch):
    from davatar.evaluation.pixel import Psnr

    monkeypatch.setattr(Psnr, "higher_is_better", False)
    outcome = cli("plugins", "check", "metric", "psnr")
    assert outcome.code == 5 and "lower should be better" in outcome.out
    assert "1 of 1 plugins do not work: psnr" in outcome.err


def test_new_says_where_and_what_next(cli, tmp_path):
    outcome = cli("plugins", "new", "metric", "my-own", "--folder", tmp_path)
    folder = tmp_path / "davatar-my-own"
    assert outcome.code == 0 and f"pip install -e {folder}" in outcome.out
    assert (folder / "src" / "davatar_my_own" / "__init__.py").is_file()
    assert cli("plugins", "new", "metric", "my-own", "--folder", tmp_path).code == 2
