"""`davatar prior` through the real entry point, on toy code tables."""

import json
import signal
from importlib.resources import files

import numpy as np
import pytest

OPEN_HEAD = files("davatar.assets") / "nphm" / "open.safetensors"
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
    made = {"prior.safetensors", "config.yaml", "manifest.json", "metrics.jsonl", "tensorboard"}
    assert {p.name for p in folder.iterdir()} >= made
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["inputs"]["codes"]["path"] == str(table) and manifest["sessions"][-1]["status"] == "done"
    shown = cli("prior", "show", "PR-1", "--evaluate", "-n", "40", "--steps", "4", "--json")
    assert shown.code == 0, shown.err
    document = json.loads(shown.out)
    assert document["kind"] == "identity" and document["code_size"] == 8
    assert set(document["evaluation"]["codes"]) == {"data", "prior", "gaussian"}
    assert "held-out" in document["evaluation"]["training_neighbours"] and "meshes" not in document["evaluation"]
    judged = cli("prior", "evaluate", "PR-1", "-n", "40", "--steps", "4", "--out", own_places / "figures.json")
    assert judged.code in (0, 5) and "covers more held-out codes" in judged.out, judged.err
    claims = json.loads((own_places / "figures.json").read_text())["claims"]
    assert judged.code == (0 if all(claim["holds"] for claim in claims) else 5)
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
        (["train", "identity", "--set", "data.codes=/nowhere/codes.npz"], 4, "/nowhere/codes.npz"),
        (["show", "nobody"], 4, "open-identity"),
        (["import", OPEN_HEAD, "--out", "x.safetensors"], 2, "is davatar's own head model already"),
        (["import", OPEN_HEAD, "--out", "."], 2, ".: is a folder"),
        (["sample", "--out", __file__], 2, "test_prior_cli.py: is a file"),
        (["sample", "--grid", f"{__file__}/heads.png"], 2, "test_prior_cli.py: is a file"),
        (["evaluate", "--out", "."], 2, ".: is a folder"),
        (["sample", "-n", "0"], 2, "-n"),
        (["sample", "--seed", "-1"], 2, "seed"),
        (["evaluate", "open-identity", "--seed", "-1"], 2, "seed"),
        (["sample", "--identity", "open-expression"], 3, "makes codes of 53 numbers, the head model takes 1344"),
        (
            ["sample", "--identity", "open-joint", "--expression", "open-expression"],
            2,
            "leave the expression prior out",
        ),
        (["sample", "--steps", "0"], 2, "0 sampling steps"),
        (["sample", "--grid", "heads.txt"], 2, "heads.txt"),
        (["sample", "--video", "heads.gif"], 2, "heads.gif"),
        (["evaluate", "nobody"], 4, "open-joint"),
        (["show", "open-identity", "--evaluate", "--surfaces", "3"], 2, "ask for 20 or more"),
    ],
)
def test_mistakes_have_a_code_and_a_mend_and_leave_no_run(cli, own_places, words, code, says):
    outcome = cli("prior", *words)
    assert not list((own_places / "models").glob("PR-*"))
    assert outcome.code == code, outcome.err
    assert says in outcome.err and "Traceback" not in outcome.err


def test_sample_writes_what_was_asked_for(cli, tmp_path):
    out = tmp_path / "heads"
    words = ["-n", "1", "--identity", "mean", "--resolution", "24", "--out", out, "--grid", tmp_path / "g.png"]
    done = cli("prior", "sample", *words, "--format", "glb", "--steps", "5", "--json", "-q")
    assert done.code == 0, done.err
    assert json.loads(done.out)["picture"] == str(tmp_path / "g.png")
    assert {p.name for p in out.iterdir()} == {"00000.glb", "codes.npz"}
    codes = np.load(out / "codes.npz")
    assert (codes["identity"] == 0).all() and codes["expression"].shape == (1, 53)


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
