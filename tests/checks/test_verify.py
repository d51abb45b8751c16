"""`davatar verify` on fixtures of other seeds and widths than the golden ones; what is wrong is named, others go on."""

import json
import runpy

import numpy as np
import pytest
import torch

from davatar.checks.verify import run
from davatar.checks.verify.comparison import Check, compare
from davatar.checks.verify.dphm_decoder import build_decoder, decoder_of_recipe, described_config
from davatar.checks.verify.dphm_field import PRECISIONS, blend_of, members_of, recompute
from davatar.checks.verify.dphm_unet import build_network
from davatar.checks.verify.recipe import DECODER_SHARES, recipe_weights
from davatar.core.errors import Interrupted
from davatar.headmodel.ict_codes import MEAN_ANCHORS

HEAD = {"glob": 6, "loc": 3, "hid": 10, "nl": 3, "K": 6, "nhyp": 1, "exp": 5, "lid": 4, "ehid": 12, "enl": 4, "pos": 7}
HEAD |= {"std": 3.5, "seed": 77}
NETWORK = {"net": {"dim": 8, "dim_mults": [1, 2, 2], "channels": 1}, "seed": 5, "gain": 1.0}


def as_bytes(document):
    return np.frombuffer(json.dumps(document).encode(), np.uint8)


@pytest.fixture(scope="session")
def field():
    """Arrays of a section-A fixture, made with our own head model."""
    random, config = np.random.default_rng(0), described_config(HEAD, 39, 24)
    arrays = {
        "queries": random.uniform(-0.3, 0.3, (2, 7, 3)).astype(np.float32),
        "geo": 0.3 * random.normal(size=(2, 1, config.identity_size)).astype(np.float32),
        "exp": 0.3 * random.normal(size=(2, 1, config.expression_size)).astype(np.float32),
        "probe": np.cos(np.arange(14.0)).reshape(2, 7, 1),
        "member_in": random.normal(size=(3, 13)),
    }
    weights = decoder_of_recipe(config, HEAD["seed"])
    for suffix, dtype in PRECISIONS.items():
        model = build_decoder(weights, HEAD, config.identity_size, MEAN_ANCHORS, dtype)
        if suffix == "f64":
            codes = (torch.from_numpy(arrays[key])[:, 0].double() for key in ("geo", "exp"))
            queries = torch.from_numpy(arrays["queries"]).double()
            arrays["queries_can_f64"] = model.to_canonical(queries, *codes).numpy()
        arrays |= recompute(model, arrays, suffix)
    arrays["neighbours"], arrays["blend"] = blend_of(model, arrays)
    arrays["member_out"] = members_of(model, arrays["member_in"])
    return arrays | {"config": as_bytes(HEAD)}


@pytest.fixture(scope="session")
def network():
    """Arrays of a U-Net fixture, made with our own."""
    random, found = np.random.default_rng(1), {}
    found |= {"x": random.normal(size=(2, 1, 20)).astype(np.float32), "t": np.array([3, 800])}
    found["probe"] = random.normal(size=(2, 1, 20))
    for suffix, dtype in PRECISIONS.items():
        unet = build_network(NETWORK).to(dtype)
        x = torch.from_numpy(found["x"]).to(dtype).requires_grad_()
        y = unet(x, torch.from_numpy(found["t"]))
        found[f"y_{suffix}"] = y.detach().numpy()
        (pull,) = torch.autograd.grad((torch.from_numpy(found["probe"]).to(dtype) * y).sum(), x)
        found[f"d_probe_x_{suffix}"] = pull.numpy()
    return found | {"config": as_bytes(NETWORK)}


@pytest.fixture
def folder(tmp_path, field, network, monkeypatch):
    monkeypatch.setattr(run, "MODULES", ("dphm_field", "dphm_unet"))  # the others import for long
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "set" / "A_other.npz", **field)
    np.savez(tmp_path / "set" / "C_other.npz", **network)
    return tmp_path


def document(outcome):
    """Strict JSON: no NaN."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(outcome.out, parse_constant=refuse)


def test_other_seeds_and_widths_hold(cli, folder):
    (folder / "set" / "notes.json").write_text("[]")
    done = cli("verify", folder, "--json", "-q")
    assert done.code == 0, done.err
    found = document(done)
    assert found["holds"] and found["unrecognised"] == ["set/notes.json"] and found["damaged"] == []
    assert {row["section"] for row in found["comparisons"]} == {"dphm A", "dphm C"}
    quantities = {row["quantity"] for row in found["comparisons"] if row["fixture"] == "set/A_other.npz"}
    assert {
        "sdf, float32",
        "sdf, float64",
        "d cos geo, float64",
        "neighbours that differ",
        "hyper, float64",
    } <= quantities
    table = cli("verify", folder, "--only", "c")
    assert (
        "set/C_other.npz" in table.out and "A_other" not in table.out and "quantities in 1 fixtures hold" in table.out
    )


@pytest.mark.parametrize("key", ["sdf_f32", "d_cos_exp_f64", "neighbours", "blend", "member_out"])
def test_a_changed_number_is_found(cli, folder, field, key):
    changed = field[key].copy()
    changed.flat[-1] += 1 if changed.dtype.kind == "i" else 0.01 * max(1, np.abs(changed).max())
    np.savez(folder / "set" / "A_other.npz", **field | {key: changed})
    done = cli("verify", folder, "--json", "-q", "--only", "dphm A")
    assert done.code == 5 and "A_other.npz" in done.err and "more than tolerated" in done.err
    assert sum(not row["holds"] for row in document(done)["comparisons"]) == 1


def test_numbers_that_are_missing_never_hold(cli, folder, field):
    np.savez(folder / "set" / "A_other.npz", **field | {"sdf_f64": np.full_like(field["sdf_f64"], np.nan)})
    done = cli("verify", folder, "--json", "-q", "--only", "A")
    assert done.code == 5
    assert [row["error"] for row in document(done)["comparisons"] if not row["holds"]] == [None]


@pytest.mark.parametrize("damage", ["truncated", "torn inside", "other content", "no JSON"])
def test_a_damaged_fixture_stops_no_other(cli, folder, field, damage):
    path = folder / "set" / ("A_list.json" if damage == "no JSON" else "A_other.npz")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "torn inside":
        content = bytearray(path.read_bytes())
        content[2000:2100] = bytes(100)
        path.write_bytes(content)
    elif damage == "other content":
        np.savez(path, **field | {"config": as_bytes({"seed": 77})})
    else:
        path.write_text("{")
    done = cli("verify", folder, "--json", "-q")
    assert done.code == 3 and path.name in done.err and "Traceback" not in done.err
    found = document(done)
    assert not found["holds"] and [item["file"] for item in found["damaged"]] == [f"set/{path.name}"]
    assert any(row["fixture"] == "set/C_other.npz" and row["holds"] for row in found["comparisons"])


def test_a_stop_is_no_damage(folder, monkeypatch):
    def stopped(path):
        raise Interrupted("stopped")

    monkeypatch.setattr(run, "all_checks", lambda: [Check("dphm A", lambda path: True, stopped)])
    with pytest.raises(Interrupted):
        run.verify(folder)


@pytest.mark.parametrize(
    "words, code, says",
    [
        (["nowhere"], 4, "there is no such folder"),
        (["."], 3, "no fixture is recognised"),
        ([".", "--only", "Q"], 2, "dphm A"),
        ([".", "--device", "abacus"], 4, "--device cpu"),
    ],
)
def test_mistakes_have_a_code_and_a_mend(cli, tmp_path, monkeypatch, words, code, says):
    monkeypatch.setattr(run, "MODULES", ("dphm_field", "dphm_unet"))
    monkeypatch.chdir(tmp_path)
    done = cli("verify", *words)
    assert done.code == code and says in done.err


def test_recipe_gives_the_originals_weights(shared):
    """Ours beside the description of the fixtures, on every kind of tensor."""
    theirs = runpy.run_path(str(shared / "golden" / "dphm" / "recipe.py"))["weights"]
    shapes = {"a.weight": (3, 4), "a.bias": (3,), "block.norm.weight": (5,), "attn.g": (1, 6, 1), "c.weight": (2, 3, 4)}
    shapes |= {f"ex_model.{key}": (2, 3) if key.endswith("weight") else (2,) for key in DECODER_SHARES}
    expected = theirs(shapes, 1234, 1.5, DECODER_SHARES)
    found = recipe_weights(shapes, 1234, 1.5, DECODER_SHARES)
    assert all(np.array_equal(found[key].numpy(), expected[key]) for key in shapes)


def test_shapes_that_differ_never_hold():
    assert not compare("f", "q", np.zeros(3), np.zeros((3, 1)), 1.0).holds
    assert compare("f", "q", np.array([0.0, 101.0]), np.array([0.0, 100.0]), 0.02, relative=True).holds
    assert not compare("f", "q", np.array([0.0, 103.0]), np.array([0.0, 100.0]), 0.02, relative=True).holds


GOLDEN = ["B_extraction", "E_depth", "E_geometry", "F_metrics"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_surfaces_points_and_metrics(recomputed, shared, name):
    from davatar.checks.verify import dphm_metrics, dphm_preprocessing, dphm_surface

    checks = (*dphm_surface.CHECKS, *dphm_preprocessing.CHECKS, *dphm_metrics.CHECKS)
    recomputed(checks, shared / "golden" / "dphm" / f"{name}.npz")
