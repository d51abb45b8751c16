"""The neural stage: published energies to golden numbers, derivatives to finite differences, stages that resume."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation

from davatar.core.errors import ConfigError
from davatar.core.settings import resolve
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_codes import code_maps
from davatar.headmodel.morphable import open_morphable
from davatar.headmodel.published import config_from_shapes, from_published
from davatar.headmodel.training import TrainingSettings, new_model
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


def test_published_energies_and_their_pose_gradients(shared):
    """Golden D_init_default, first iteration; float32 there: 1e-5 relative."""
    folder = shared / "golden" / "dphm"
    weights = load_file(folder / "D_decoder.safetensors")
    parts = [
        {key.removeprefix(head): value for key, value in weights.items() if key.startswith(head)}
        for head in ("id_model.", "ex_model.")
    ]
    with np.load(folder / "D_common.npz") as common, np.load(folder / "D_init_default.npz") as golden:
        config = config_from_shapes(*parts, identity_size=common["geo0"].shape[-1])
        model = HeadModel(from_published(*parts, config), None, "golden", "golden")
        here = Variables(
            torch.from_numpy(common["geo0"][0, 0]).float(),
            torch.from_numpy(common["exp0"][0, 0]).float(),
            *(
                torch.tensor(common[key], dtype=torch.float32)[0].requires_grad_()
                for key in ("quaternion0", "translation0")
            ),
            torch.tensor(float(common["scale0"])).requires_grad_(),
        )
        chosen = golden["indices"][0]
        points, normals = (torch.from_numpy(common[key][0][chosen]).float() for key in ("points", "normals"))
        marks, slots = torch.from_numpy(common["landmarks"][0]).float(), torch.from_numpy(common["order"]).long()
        surface, cosine = adam_energies.surface_and_normals(model, here, points, -normals, ((0, 0.1),), 0)
        anchors = adam_energies.anchors(model, here, marks, slots)
        expected = dict(zip(golden["loss_names"].tolist(), golden["loss_values"][0], strict=True))
        assert surface.item() == pytest.approx(expected["surface"], rel=1e-5)
        assert cosine.item() == pytest.approx(expected["normals_cosin"], rel=1e-4)
        assert anchors.item() == pytest.approx(expected["anchors"], rel=1e-5)
        weight = json.loads(bytes(golden["meta"]))["lambdas"]
        total = weight["surface"] * surface + weight["normals_cosin"] * cosine + weight["anchors"] * anchors
        total.backward()
        for k, leaf in enumerate((here.quaternion, here.translation, here.scale)):
            assert np.allclose(
                leaf.grad.numpy(), golden[f"opt2_step0_grad{k}"].reshape(leaf.shape), rtol=1e-3, atol=1e-6
            )


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
