"""What training is told: true distances, visible skin, plausible expressions, reproducible draws."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from davatar.headmodel.ict_samples import PosedSurface, by_motion, sample_expressions, sample_heads, sample_identities
from davatar.headmodel.ict_surface import MM, teaching_surface
from davatar.headmodel.morphable import open_morphable


@pytest.fixture(scope="module")
def head():
    identity = sample_identities(1, np.random.default_rng(0))
    model = open_morphable()
    expression = model.weights(eyeBlink=1.0, jawOpen=0.3, mouthSmile_L=0.8)[None].astype(float)
    (samples,) = sample_heads(identity, expression, 600, 400, np.random.default_rng(1))
    return identity, expression, samples


def dense_truth(identity, expression):
    surface, rng = teaching_surface(), np.random.default_rng(2)
    vertices = surface.vertices(identity, expression)[0]
    corners = vertices[surface.triangles]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = rng.choice(len(area), 120_000, p=area / area.sum())
    return np.einsum("nk,nkc->nc", rng.dirichlet(np.ones(3), len(chosen)), corners[chosen])


def test_distances_are_distances(head):
    identity, expression, samples = head
    true, _ = cKDTree(dense_truth(identity, expression)).query(samples.wide)
    error = np.abs(np.abs(samples.distance) - true) / MM
    assert error.mean() < 0.5 and np.percentile(error, 95) < 1.5  # truth itself is sampled 1 mm apart
    far = np.abs(samples.distance) > 60 * MM
    assert (samples.distance[far & (samples.wide[:, 2] > 0.35)] > 0).all()


def test_pairs_lie_on_their_own_sheet(head):
    identity, expression, samples = head
    tree = cKDTree(dense_truth(identity, expression))
    outside, _ = tree.query(samples.surface + samples.reach[:, None] * samples.normal)
    assert np.mean(outside < 0.5 * samples.reach) < 0.02
    np.testing.assert_allclose(np.linalg.norm(samples.normal, axis=1), 1, atol=1e-5)


def test_covered_eye_is_dropped(head):
    """With shut lids hardly a pair may lie on an eyeball; with open ones some must."""
    surface, rng = teaching_surface(), np.random.default_rng(3)
    shares = []
    for blink in (0.0, 1.0):
        expression = open_morphable().weights(eyeBlink=blink)[None].astype(float)
        identity = np.zeros((1, 100))
        (samples,) = sample_heads(identity, expression, 1500, 10, rng, rays=True)
        vertices = surface.vertices(identity, expression)[0]
        eyes = vertices[np.unique(surface.triangles[surface.is_eye])]
        near, _ = cKDTree(eyes).query(samples.surface)
        shares.append(np.mean(near < 0.3 * MM))
    assert shares[0] > 0.004 > 4 * shares[1]


def test_expressions_are_plausible():
    rows = sample_expressions(600, np.random.default_rng(5))
    index = open_morphable().expression_index
    assert rows.min() >= 0 and rows.max() <= 1
    assert (rows[:, index["mouthClose"]] <= rows[:, index["jawOpen"]]).all()
    active = (rows > 0).sum(axis=1)
    assert 0.02 < (active == 0).mean() < 0.12 and 3 < active.mean() < 6
    left, right = rows[:, index["browDown_L"]], rows[:, index["browDown_R"]]
    assert ((left > 0) & (right == 0)).any() and ((left > 0) & (right > 0)).any()


def test_draws_depend_on_the_generator_only():
    identity = np.zeros((1, 100))
    one, two = (sample_heads(identity, None, 50, 40, np.random.default_rng(7))[0] for _ in range(2))
    for name, value in one.__dict__.items():
        assert np.array_equal(value, getattr(two, name)), name


@pytest.mark.parametrize("left", [1, 2])
def test_stray_samples_of_a_shut_eye_are_no_surface(left):
    expression = open_morphable().weights(eyeBlink=1.0)[None].astype(float)
    posed = PosedSurface(teaching_surface(), teaching_surface().vertices(np.zeros((1, 100)), expression)[0])
    points = posed.skin.data[:50] + 2 * MM * posed.skin_normals[:50]
    posed.eyes, posed.eye_normals = cKDTree(points[:left]), posed.skin_normals[:left]
    distance, _ = posed.distance(points)
    assert (distance > 1 * MM).mean() > 0.9


def test_pairs_follow_the_motion():
    motion = np.array([0.0, 0.0, 1.0, 3.0], np.float32)
    found = np.bincount(by_motion(motion, 4000, np.random.default_rng(0)), minlength=4) / 4000
    np.testing.assert_allclose(found, [0, 0, 0.25, 0.75], atol=0.03)
