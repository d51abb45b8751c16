"""The neural stage: published energies to golden numbers, derivatives to finite differences, stages that resume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from davatar.checks.verify.dphm_tracking import CHECKS
from davatar.core.errors import ConfigError
from davatar.core.settings import resolve
from davatar.diffusion.schedule import cosine_schedule
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_codes import code_maps
from davatar.headmodel.morphable import open_morphable
from davatar.headmodel.open_start import new_model
from davatar.headmodel.training import TrainingSettings
from davatar.prior.code_prior import CodePrior
from davatar.prior.normalization import RangeNormalization
from davatar.prior.unet import UNet1d
from davatar.tracking import so3
from davatar.tracking.linear import fit_linear
from davatar.tracking.neural import adam_energies
from davatar.tracking.neural.adam_energies import Variables
from davatar.tracking.neural.fit import check_stages, fit_neural
from davatar.tracking.neural.residual import field_rows
from davatar.tracking.neural.variables import CodeSpace, NeuralState, stepped
from davatar.tracking.recording import Recording
from davatar.tracking.results import Results
from davatar.tracking.settings import NeuralSettings, Stage, TrackSettings


@pytest.fixture(scope="module")
def tiny_model() -> HeadModel:
    """An untrained tiny head model in double precision; its field is a rough ball."""
    torch.manual_seed(0)
    settings = resolve(TrainingSettings, "tiny", env_prefix="", component="nphm").value
    maps = code_maps(open_morphable())
    return HeadModel(new_model(settings, maps).double(), maps, "0" * 16, "tiny")


FITS = ["init_default", "init_full_2frames", "init_sds_skip", "incre_default", "joint_intent", "joint_full", "fullrun"]


@pytest.mark.parametrize("name", FITS)
def test_published_energies_and_gradients(recomputed, shared, name):
    recomputed(CHECKS, shared / "golden" / "dphm" / f"D_{name}.npz")


SPEC_10_6 = {"surface": 0.0132698409, "normals": 1.24594386, "normals_cosin": 0.874260256, "anchors": 0.66918449,
             "sds_shape": 0.404405962, "sds_expr": 0.309988828, "reg_expr": 0.706309646, "reg_glob": 0.195590624,
             "reg_loc": 3.5941578, "symm_dist": 0.326773726, "reg_extra": 0.158300621}  # fmt: skip
WEIGHTS_10_6 = {"surface": 2, "normals": 0.01, "normals_cosin": 0.05, "anchors": 0.1, "sds_shape": 0.5,
                "sds_expr": 0.5, "reg_expr": 0.05, "reg_glob": 0.25, "symm_dist": 5, "reg_loc": 0.05,
                "reg_extra": 10}  # fmt: skip


def test_conformance_vector(wave, wave_weights, wave_head):
    """Spec dphm 10.6; terms that the tracker does not have are written out here, so that the total has gradients."""
    model = HeadModel(wave_head, None, "", "spec")
    codes = {"sds_shape": wave(84, 0.7, 0.1, 0.3), "sds_expr": wave(6, 1.1, 0.4, 0.5)}
    pose = np.array([0.1, 0.95, 0.05, -0.2]), np.array([0.01, -0.02, 0.5]), np.array(1.1)
    here = Variables(*(torch.from_numpy(value).requires_grad_() for value in (*codes.values(), *pose)))
    away = np.array([0, 0, 0.5])
    points, marks = (torch.from_numpy(x.reshape(-1, 3) + away) for x in
                     (wave(18, 0.83, 0.6, 0.06), wave(24, 0.5, 1.2, 0.05)))  # fmt: skip
    inward = torch.nn.functional.normalize(torch.from_numpy(wave(18, 1.9, 0.2, 1.0).reshape(-1, 3)), dim=1)
    surface, cosine = adam_energies.surface_and_normals(model, here, points, -inward, ((0, 0.1),), 0)
    x = here.to_head(points)
    (slope,) = torch.autograd.grad(model.sdf(x, here.identity, here.expression).sum(), x, create_graph=True)
    slots = torch.tensor([0, 1, 10, 11, 12, 13, 34, 35])
    top, local = here.identity[:4], here.identity[4:].reshape(40, 2)
    terms = {
        "surface": surface,
        "normals": (slope + inward @ adam_energies.rotation_of(here.quaternion)).norm(dim=1).mean(),
        "normals_cosin": cosine,
        "anchors": adam_energies.anchors(model, here, marks, slots),
        "reg_expr": here.expression.square().sum(),
        "reg_glob": top.square().sum(),
        "reg_loc": local.square().sum(),
        "symm_dist": sum((local[a] - local[b]).square().sum() for a, b in ((10, 11), (12, 13), (0, 1))),
        "reg_extra": local[1].square().sum(),
    }
    network = wave_weights(UNet1d(8, (1, 2))).requires_grad_(False)
    for name, leaf in (("sds_shape", here.identity), ("sds_expr", here.expression)):
        prior = CodePrior("identity", network, cosine_schedule(), "v_prediction", RangeNormalization(-1, 1, len(leaf)))
        value, pull = prior.guidance(leaf.detach()[None], 500, torch.from_numpy(wave(len(leaf), 2.3, 0.9, 1.0))[None])
        joined = (leaf * pull[0]).sum()
        terms[name] = joined + (value - joined).detach()
    for name, expected in SPEC_10_6.items():
        assert terms[name].item() == pytest.approx(expected, rel=1e-5), name
    total = sum(weight * terms[name] for name, weight in WEIGHTS_10_6.items())
    assert total.item() == pytest.approx(3.98762385, rel=1e-5)
    total.backward()
    identity = [0.034382936, 0.15552747, 0.218411991, 0.186402485, 3.461755698, 1.530205082]
    assert here.identity.grad[:6].tolist() == pytest.approx(identity, rel=1e-5)
    assert here.identity.grad.norm().item() == pytest.approx(13.6207697, rel=1e-5)
    for leaf, expected in (
        (here.expression, [-0.036362987, 0.034138534, 0.025062059, -0.131098288, -0.113800409, -0.085322769]),
        (here.quaternion, [0.346323786, -0.076786043, 0.113568115, -0.163179782]),
        (here.translation, [0.456451708, 0.919914365, 2.841161669]),
        (here.scale, 0.109843969),
    ):
        np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_rotations_of_quaternions_and_hard_truncation():
    quaternion = torch.tensor([0.3, -0.8, 1.1, 0.2], dtype=torch.float64)
    expected = Rotation.from_quat(quaternion[[1, 2, 3, 0]].numpy()).as_matrix()
    assert np.allclose(adam_energies.rotation_of(quaternion).numpy(), expected)
    distance = torch.tensor([0.004, -0.06, 0.2])
    cuts = ((0, 0.1), (5, 0.05), (9, 0.001))
    found = [float(adam_energies.truncated(distance, cuts, iteration)) for iteration in (0, 5, 9)]
    assert found == pytest.approx([0.032, 0.004, 0.0])


def test_field_rows_are_the_residuals_derivative(tiny_model):
    space, random = CodeSpace.of(tiny_model), np.random.default_rng(0)
    state = NeuralState(so3.facing_camera(0.2, 0.1), np.array([0.01, 0.0, 0.6]), random.uniform(0.1, 0.4, 53))
    identity = space.start(random.normal(size=100), np.zeros((1, 53)))[0]
    points = state.rotation @ random.normal(0, 0.05, (3, 12)) + state.translation[:, None]
    found = field_rows(space, state, identity, points.T, by_identity=True)

    def raw(other, code):
        x = torch.from_numpy(other.to_head(points.T))
        return tiny_model.sdf(x, torch.from_numpy(code), space.expression(other.expression)).numpy()

    per_mm = found.residual / raw(state, identity)  # mm per unit of the field, its steepness held
    for k in [0, 1, 2, 3, 4, 5, 6, 32, 58]:
        step = np.zeros(59)
        step[k] = 1e-5
        ahead, behind = (raw(stepped(state, sign * step, bounded=False), identity) for sign in (1, -1))
        assert np.allclose(per_mm * (ahead - behind) / 2e-5, found.rows[:, k], rtol=2e-3, atol=2e-2)
    for k in (0, 40, 99):
        step = 1e-5 * space.identity_basis[:, k].numpy()
        numeric = per_mm * (raw(state, identity + step) - raw(state, identity - step)) / 2e-5
        assert np.allclose(numeric, found.identity_rows[:, k], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["open", "dphm"])
def test_presets_hold_stages_that_fit_together(name):
    check_stages(resolve(TrackSettings, name, env_prefix="").value.neural)


@pytest.mark.parametrize(
    ("stage", "word"),
    [
        (Stage(weights={"surface": 1.0, "anchors": 1.0}), "anchors"),
        (Stage(weights={"expression": 1.0}), "surface"),
        (Stage(solver="adam", frames="keys", weights={"surface": 1.0}), "keys"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stage, word):
    with pytest.raises(ConfigError, match=word):
        check_stages(NeuralSettings(stages=(stage,)))


ADAM = {"surface": 2.0, "normals_cosin": 0.05, "smooth_expr": 1.0, "smooth_rot": 1.0, "smooth_trans": 1.0}
RATES = {"identity": 1e-3, "expression": 1e-3, "pose": 1e-4, "scale": 1e-4}
STAGES = (
    Stage("keys", frames="keys", moves=("identity", "expression", "pose"), iterations=1, points=60,
          weights={"surface": 1.0, "expression": 1.0, "identity": 1.0}),
    Stage("each", iterations=2, points=60, weights={"surface": 1.0, "expression": 1.0, "reg_expre_smo": 1.0}),
    Stage("start", "adam", "start", ("identity", "expression", "pose", "scale"), 2, 20, ADAM, rates=RATES, drops=(1,)),
    Stage("pairs", "adam", "pairs", ("identity", "expression", "pose"), 2, 20, ADAM, rates=RATES, drops=(1,)),
)  # fmt: skip


def test_neural_stages_resume_where_they_stopped(known, quick, tiny_model, tmp_path):
    recording = Recording(known.capture, range(2), points=300, seed=0)
    small = replace(quick.linear, points=300, key_rounds=1, joint_rounds=1, first_steps=4)
    linear = fit_linear(recording, small, Results(None))
    settings = NeuralSettings(stages=STAGES, key_frames=2)
    whole = fit_neural(recording, linear, tiny_model, settings, Results(None))

    class Stop(Exception):
        pass

    for after in (1, 3, 5):
        count = 0

        def check(after=after):
            nonlocal count
            count += 1
            if count == after:
                raise Stop

        with pytest.raises(Stop):
            fit_neural(recording, linear, tiny_model, settings, Results(tmp_path / str(after), "x"), check=check)
        again = fit_neural(recording, linear, tiny_model, settings, Results(tmp_path / str(after), "x"))
        assert np.array_equal(again.identity, whole.identity) and again.scale == whole.scale
        for one, other in zip(again.states, whole.states, strict=True):
            assert np.array_equal(one.rotation, other.rotation) and np.array_equal(one.expression, other.expression)
    assert whole.scale != 1.0
