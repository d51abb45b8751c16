"""The shipped head model: what its card promises, on a head it never saw and at small cost."""

import numpy as np
import pytest
import torch

from davatar.geometry.surface import largest_component
from davatar.headmodel.contact_sheet import shaded
from davatar.headmodel.evaluate import count_pieces
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_samples import sample_identities
from davatar.headmodel.ict_surface import MM, teaching_surface
from davatar.headmodel.morphable import open_morphable
from davatar.headmodel.movements import follow_points, movement_shares
from davatar.headmodel.true_surface import project, true_surface


@pytest.fixture(scope="module")
def model() -> HeadModel:
    torch.set_num_threads(1)
    return HeadModel.from_pretrained("open")


@pytest.fixture(scope="module")
def head():
    identity = sample_identities(1, np.random.default_rng(31))[0]
    expression = open_morphable().weights(jawOpen=0.4, mouthSmile=0.6, browInnerUp_L=0.8).astype(float)
    return identity, expression, teaching_surface().vertices(identity[None], expression[None])[0]


def test_surface_is_where_the_card_says(model, head):
    identity, expression, vertices = head
    truth = true_surface(vertices, 800, np.random.default_rng(1))
    distance, steepness, normal = project(model, truth.points, *model.codes(identity, expression))
    face = truth.regions["face"]
    assert distance[face].mean() / MM < 0.5 and np.percentile(distance[face], 95) / MM < 1.6
    assert np.einsum("nc,nc->n", normal, truth.normals)[face].mean() > 0.9
    assert steepness[face].mean() == pytest.approx(1.0, abs=0.1)


def test_following_a_point_inverts_the_deformation(model, head):
    identity, expression, vertices = head
    codes = model.codes(identity, expression)
    x = torch.from_numpy(vertices[::900][:12])
    canonical = model.to_canonical(x, *codes)[..., :3]
    found = follow_points(model, canonical, x + 2 * MM, *codes)
    assert (found - x).norm(dim=-1).median() / MM < 0.05


def test_movements_arrive(model, head, monkeypatch):
    monkeypatch.setattr("davatar.headmodel.movements.MOVEMENTS", {"jaw open": {"jawOpen": 1.0}})
    assert movement_shares(model, head[0], 1.0)["jaw open"] == pytest.approx(1.0, abs=0.12)


def test_mesh_is_one_head(model, head):
    identity, expression, vertices = head
    codes = model.codes(identity, expression)
    mesh = model.mesh(*codes, resolution=40)
    assert len(largest_component(mesh.vertices, mesh.triangles)[0]) == len(mesh.vertices), "specks are dropped"
    assert count_pieces(model, *codes, resolution=40) <= 2, "the card says one per head"
    picture = shaded(mesh.vertices.astype(float), mesh.triangles, 0.0, 24)
    truth = shaded(vertices, teaching_surface().all_triangles, 0.0, 24)
    assert np.mean((picture == 255) == (truth == 255)) > 0.93, "silhouettes differ"


def test_says_what_it_is(model):
    about = model.describe()
    assert about["identity_size"] == 1344 and "MIT" in about["licence"] and len(about["hash"]) == 64
