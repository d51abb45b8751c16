"""The fidelity report: distances and scores against known ones, a fit that finds a surface, every figure asked for."""

import numpy as np
import pytest
import torch

from davatar.geometry.mesh import Mesh
from davatar.headmodel import evaluate
from davatar.headmodel.code_fit import Annealing, fit_coefficients, surface_rows
from davatar.headmodel.evaluate import evaluate_open, f_score, floating_pieces, heads_with_islands
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_surface import MM, teaching_surface
from davatar.headmodel.movements import MOVEMENTS
from davatar.headmodel.true_surface import towards_truth, true_surface


@pytest.fixture(scope="module")
def model() -> HeadModel:
    torch.set_num_threads(1)
    return HeadModel.from_pretrained("open")


@pytest.fixture(scope="module")
def neutral():
    vertices = teaching_surface().vertices(np.zeros((1, 100)), np.zeros((1, 53)))[0]
    return vertices, true_surface(vertices, 1500, np.random.default_rng(0))


def test_the_truth_is_no_distance_from_itself(neutral):
    vertices, truth = neutral
    exact = towards_truth(Mesh(vertices, teaching_surface().all_triangles), truth)
    assert np.percentile(exact.away, 99) < 0.01 * MM and exact.cosine[exact.regions["face"]].mean() > 0.9
    grown = vertices + 0.8 * MM * teaching_surface().normals(vertices)
    off = towards_truth(Mesh(grown, teaching_surface().all_triangles), truth)
    assert np.median(off.away[off.regions["face"]]) == pytest.approx(0.8 * MM, rel=0.1)


def test_f_score_is_harmonic():
    near, far = np.full(10, 0.1), np.full(10, 9.0)
    assert f_score(near, near, 1.0) == 1 and f_score(far, far, 1.0) == 0
    half = np.concatenate([near, far])
    assert f_score(half, near, 1.0) == pytest.approx(2 / 3)


def ball(centre, radius=0.1, inward=False):
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    return np.asarray(mesh.vertices) + centre, np.asarray(mesh.faces)[:, :: -1 if inward else 1]


def test_only_what_is_outside_floats():
    parts = [ball([0, 0, 0], 0.3), ball([0.5, 0, 0], 0.02), ball([0, 0, 0.1], 0.02, inward=True)]
    counts = np.cumsum([0] + [len(v) for v, _ in parts[:-1]])
    mesh = Mesh(
        np.concatenate([v for v, _ in parts]),
        np.concatenate([t + n for (_, t), n in zip(parts, counts, strict=True)]).astype(np.int32),
    )
    assert floating_pieces(mesh) == 1, "a bubble inside is no island"


def test_rows_are_derivatives(model, neutral):
    _, truth = neutral
    identity, expression = np.zeros(100), np.zeros(53)
    points, normals = truth.points[:5], truth.normals[:5]
    _, rows, agreement = surface_rows(model, points, normals, identity, expression)
    assert (agreement > 0.5).all()
    for column, code, place in ((3, identity, 3), (100 + 9, expression, 9)):
        step = np.zeros_like(code)
        step[place] = 0.02
        ends = [
            surface_rows(model, points, normals, *(c + s * step if c is code else c for c in (identity, expression)))[0]
            for s in (-1, 1)
        ]
        np.testing.assert_allclose(
            (ends[1] - ends[0]) / 0.04, rows[:, column], atol=0.05 + 0.1 * abs(rows[:, column]).max()
        )


def test_a_fit_comes_closer_to_the_surface(model):
    identity = np.zeros(100)
    identity[:3] = 1.5, -1.0, 1.0
    vertices = teaching_surface().vertices(identity[None], np.zeros((1, 53)))[0]
    truth = true_surface(vertices, 250, np.random.default_rng(1))
    found = fit_coefficients(model, truth.points, truth.normals, steps=5)
    before, after = (
        np.abs(surface_rows(model, truth.points, truth.normals, *codes)[0]).mean()
        for codes in ((np.zeros(100), np.zeros(53)), found)
    )
    assert after < 0.4 * before and (found[1] >= 0).all() and (found[1] <= 1).all()


def test_annealing_stays_at_its_last_value():
    schedule = Annealing(20.0, 2.0, 0.5)
    assert [schedule.at(k) for k in (0, 1, 9)] == [20.0, 10.0, 2.0]


def test_the_report_has_every_figure(model, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "FIT_POINTS", 60)
    monkeypatch.setattr(evaluate, "MOVEMENTS", {"blink": MOVEMENTS["blink"]})
    monkeypatch.setattr("davatar.headmodel.movements.MOVEMENTS", {"blink": MOVEMENTS["blink"]})
    found = evaluate_open(model, identities=1, expressions=1, points=300, islands=1, resolution=32)
    assert found["heads"] == 1 and found["islands"]["heads"] == 1
    for kind in ("given", "fitted"):
        for way in ("truth_to_prediction_mm", "prediction_to_truth_mm"):
            assert found[kind][way]["head"]["mean"] < found[kind][way]["head"]["p95"] < 30
        assert 0.5 < found[kind]["normal_consistency"]["head"] <= 1
        assert 0 < found[kind]["f_score_1mm"]["face"] <= 1
        assert found[kind]["chamfer_mm"]["face"] > 0
    assert found["steepness"]["face"] == pytest.approx(1, abs=0.1)
    assert set(found["movements"]["blink"]) == {"100%", "10%"}
    assert heads_with_islands(model, 0, seed=1) == {"heads": 0, "with_islands": 0, "pieces": 0}


def test_the_report_on_the_command_line(cli, monkeypatch):
    asked = {}
    region = {"face": {"mean": 0.2, "p95": 0.6}, "head": {"mean": 0.3, "p95": 0.9}}
    scores = {name: {"face": 0.5, "head": 0.625} for name in ("chamfer_mm", "normal_consistency", "f_score_1mm")}

    def canned(model, **options):
        asked.update(options)
        return {
            "given": {"truth_to_prediction_mm": region, "prediction_to_truth_mm": region, **scores},
            "steepness": {"face": 1.0},
            "movements": {"blink": {"100%": 0.9, "10%": 0.8}},
            "floating_pieces": 0,
            "islands": {"heads": 7, "with_islands": 1, "pieces": 2},
            "heads": 6,
        }

    monkeypatch.setattr(evaluate, "evaluate_open", canned)
    shown = cli("prior", "show", "open", "--evaluate", "--identities", "2", "--no-fit", "--islands", "7")
    assert shown.code == 0, shown.err
    assert (asked["identities"], asked["fitted"], asked["islands"]) == (2, False, 7)
    assert "0.625" in shown.out and "codes given" in shown.out and "fitted" not in shown.out
