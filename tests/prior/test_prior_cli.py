"""`davatar prior` through the real entry point, on toy code tables."""

import json
import signal

import numpy as np
import pytest

TINY = [
    *("--set", "network.width=16", "--set", "network.blocks=1", "--set", "timesteps=20", "--set", "batch=8"),
    *("--set", "log_steps=5", "--set", "validate_steps=10", "--set", "save_steps=5", "--steps", "10"),
]


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "codes.npz"
    np.savez(path, codes=(rng.normal(size=(60, 3)) @ rng.normal(size=(3, 8))).astype(np.float32))
    return path


def test_train_then_show_and_evaluate(cli, table, own_places):
    done = cli("prior", "train", "identity", "--name", "toy", "--set", f"data.codes={table}", *TINY, "--json", "-q")
    assert done.code == 0, done.err
    run = json.loads(done.out)
    assert run["run"] == "PR-1-toy"
    folder = own_places / "models" / "PR-1-toy"
    assert {p.name for p in folder.iterdir()} >= {"prior.safetensors", "config.yaml", "manifest.json", "metrics.jsonl"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["inputs"]["codes"]["path"] == str(table) and manifest["sessions"][-1]["status"] == "done"
    shown = cli("prior", "show", "PR-1", "--evaluate", "-n", "40", "--steps", "4", "--json")
    assert shown.code == 0, shown.err
    document = json.loads(shown.out)
    assert document["kind"] == "identity" and document["code_size"] == 8
    assert set(document["evaluation"]["samples"]) == {"data", "prior", "gaussian"}
    again = cli("prior", "train", "identity", "--resume", "PR-1", "-q")
    assert again.code == 0, again.err


def test_dry_run_writes_nothing(cli, table, own_places):
    done = cli("prior", "train", "identity", "--set", f"data.codes={table}", *TINY, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 10 and not (own_places / "models").exists()


@pytest.mark.parametrize(
    "words, code, says",
    [
        (["train", "identity", "--set", "stps=3"], 2, "steps"),
        (["train", "nphm", "--steps", "3"], 2, "identity.steps"),
        (["train", "identity", "--resume", "PR-9", "--seed", "1"], 2, "give --resume alone"),
        (["train", "identity", "--resume", "PR-9"], 4, "PR-9"),
        (["train", "identity", "--set", "data.codes=/nowhere/codes.npz"], 3, "/nowhere/codes.npz"),
        (["show", "nobody"], 4, "open-identity"),
        (["sample", "-n", "0"], 2, "-n"),
    ],
)
def test_mistakes_have_a_code_and_a_mend_and_leave_no_run(cli, own_places, words, code, says):
    outcome = cli("prior", *words)
    assert not list((own_places / "models").glob("PR-*"))
    assert outcome.code == code, outcome.err
    assert says in outcome.err and "Traceback" not in outcome.err


def test_interrupted_training_says_how_to_go_on(cli_process, cli, table):
    words = ["prior", "train", "identity", "--set", f"data.codes={table}", *TINY, "--steps", "100000"]
    process = cli_process(*words)
    for line in process.stderr:  # a line of progress: it trains
        if line.startswith("prior over"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert "davatar prior train identity --resume PR-1" in err
    unfinished = cli("prior", "show", "PR-1")
    assert unfinished.code == 4 and "--resume PR-1" in unfinished.err


def test_published_prior_is_imported_into_one_file(cli, shared, tmp_path):
    source = shared / "golden" / "dphm" / "published" / "pretrain_models" / "dphm_expre_dim64_mults4"
    done = cli("prior", "import", source, "--out", tmp_path / "expression.safetensors")
    assert done.code == 0, done.err
    shown = cli("prior", "show", tmp_path / "expression.safetensors", "--json")
    document = json.loads(shown.out)
    assert document["network"] == "UNet1d" and document["prediction"] == "v_prediction"
    refused = cli("prior", "show", tmp_path / "expression.safetensors", "--evaluate")
    assert refused.code == 2 and "trained on" in refused.err
