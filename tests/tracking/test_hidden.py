"""Where depth does not show the face, the neural fit stays with the linear one; elsewhere it is as free as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.morphable import open_morphable
from davatar.tracking.linear import fit_linear
from davatar.tracking.neural.fit import fit_neural
from davatar.tracking.neural.hidden import hidden_information
from davatar.tracking.recording import Recording
from davatar.tracking.results import Results
from davatar.tracking.settings import NeuralSettings, Stage
from davatar.tracking.surface import fit_surface

SEEN, BEHIND = 0, 3  # frames of the recording: the face in full view, and with nothing measured about the mouth
NAMES = open_morphable().expression_names


def without_mouth(known, frame: int) -> np.ndarray:
    """The frame's depth with a box about the mouth erased, as behind a hand."""
    lips = known.vertices(frame)[open_morphable().landmarks[48:68]] @ known.capture.frame(frame).camera.K.T
    left, top = np.floor((lips[:, :2] / lips[:, 2:]).min(0) - 20).astype(int)
    right, bottom = np.ceil((lips[:, :2] / lips[:, 2:]).max(0) + 20).astype(int)
    depth = known.capture.depth[frame].copy()
    depth[top:bottom, left:right] = np.nan
    return depth


@pytest.fixture(scope="module")
def moved(known, quick):
    """For a stage's weights: how far the neural fit takes the 53 weights away from the linear fit, both frames."""
    capture = replace(known.capture, depth=[known.capture.depth[SEEN], without_mouth(known, BEHIND)])
    recording = Recording(capture, range(2), points=900, seed=0)
    linear, model = fit_linear(recording, quick.linear, Results(None)), HeadModel.from_pretrained("open")

    def fit(**weights: float) -> np.ndarray:
        stages = (Stage(iterations=2, points=400, weights=weights),)
        found = fit_neural(recording, linear, model, NeuralSettings(stages=stages), Results(None))
        return np.array(
            [state.expression - row.state.expression for state, row in zip(found.states, linear.rows, strict=True)]
        )

    return fit


def test_a_hidden_mouth_stays_where_the_linear_fit_left_it(moved):
    mouth = [k for k, name in enumerate(NAMES) if name.startswith(("jaw", "mouth"))]
    free, held = (np.abs(moved(surface=1.0, **more)[:, mouth]) for more in ({}, {"reg_hidden": 1.0}))
    jaw = mouth.index(NAMES.index("jawOpen"))
    assert free[1, jaw] > 0.05  # what the cheeks alone say opens the mouth
    assert held[1, jaw] < 0.01
    assert held[1].max() < 0.25 * free[1].max()
    assert held[0].mean() == pytest.approx(free[0].mean(), rel=0.25)  # in full view nothing is held


def test_hidden_information_is_that_of_the_missing_skin():
    surface = fit_surface()
    posed, eye = surface.shape(np.zeros(100)), np.array([0.0, 0.0, 0.6])
    skin = posed[surface.confidence == 1]
    all_seen = hidden_information(surface, posed, eye, skin, 1000, 0.006)
    assert np.abs(all_seen).max() == 0
    seen = skin[skin[:, 1] > -0.02]  # nothing below the nose
    found = hidden_information(surface, posed, eye, seen, 1000, 0.006)
    twice = hidden_information(surface, posed, eye, seen, 2000, 0.006)
    assert np.allclose(2 * found, twice) and np.linalg.eigvalsh(found).min() > -1e-3
    jaw, brow = NAMES.index("jawOpen"), NAMES.index("browInnerUp_L")
    assert found[jaw, jaw] > 1000 * found[brow, brow]
    # an open jaw moves the missing skin along its normals by so many mm, squared and summed over as many points
    opened = surface.posed(surface.shape(np.zeros(100)), np.eye(53)[jaw])
    mm = 1000 * ((opened - posed) * surface.normals(posed)).sum(1)
    area = surface.areas(posed)
    low = (surface.confidence == 1) & (posed[:, 1] < -0.026) & (surface.normals(posed)[:, 2] > 0.35)
    high = (surface.confidence == 1) & (posed[:, 1] > -0.02) & (surface.normals(posed)[:, 2] > 0.35)
    rough = 1000 / area[high].sum() * (area * mm**2)[low].sum()
    assert found[jaw, jaw] == pytest.approx(rough, rel=0.3)


def test_no_points_give_no_information():
    surface = fit_surface()
    posed = surface.shape(np.zeros(100))
    assert not hidden_information(surface, posed, np.array([0.0, 0.0, 0.6]), np.zeros((0, 3)), 0, 0.006).any()
