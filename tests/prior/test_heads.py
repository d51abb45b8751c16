import numpy as np
import pytest
import torch

from davatar.core.errors import DataError
from davatar.diffusion.schedule import cosine_schedule
from davatar.geometry.mesh import Mesh, read_ply
from davatar.prior.code_prior import CodePrior
from davatar.prior.heads import MIDDLE, portrait, sample_codes, sheet, write_heads
from davatar.prior.network import NetworkConfig, build_network
from davatar.prior.normalization import LinearNormalization
from davatar.raster.embree import EmbreeRasterizer


class Balls:
    """A head model whose heads are balls; the first number of the identity code sets the radius."""

    identity_size, expression_size, hash = 5, 3, "balls"
    frame = np.diag([0.25, 0.25, 0.25, 1.0])

    def mesh(self, identity, expression, resolution):
        import trimesh

        ball = trimesh.creation.icosphere(3, 0.4 + 0.01 * float(identity[0]))
        return Mesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32))


def _prior(kind, size):
    network = build_network(NetworkConfig("mlp", width=16, blocks=1), 2, seed=0)
    return CodePrior(
        kind, network, cosine_schedule(20), "v_prediction", LinearNormalization(np.zeros(size), np.eye(2, size))
    )


def test_heads_are_written_in_metres(tmp_path):
    head = Balls()
    codes = sample_codes(head, _prior("identity", 5), None, n=3, steps=4)
    assert (codes.expression == 0).all() and codes.identity.shape == (3, 5)
    written = write_heads(tmp_path, head, codes, 16, EmbreeRasterizer(), picture_size=48)
    ball = read_ply(tmp_path / "00002.ply")
    assert np.linalg.norm(ball.vertices, axis=1).max() == pytest.approx(0.1, abs=0.01)
    assert np.load(written["codes"])["identity"].shape == (3, 5)
    assert written["picture"].read_bytes().startswith(b"\x89PNG")


def test_joint_prior_is_split_into_both_codes():
    codes = sample_codes(Balls(), _prior("joint", 8), None, n=2, steps=4)
    assert codes.identity.shape == (2, 5) and codes.expression.shape == (2, 3)


def test_prior_of_another_head_model_is_refused():
    with pytest.raises(DataError, match="makes codes of 7 numbers, the head model takes 5"):
        sample_codes(Balls(), _prior("identity", 7), None, n=1)


def test_portrait_shows_the_side_that_is_turned_to_the_camera():
    """A nose at +z is in the middle from the front, and on the image's right when the head turns to its left."""
    ball = Balls().mesh(torch.zeros(5), None, 8).transformed(np.eye(3), MIDDLE, 0.15)
    nose = ball.transformed(np.eye(3), 0.7 * MIDDLE + np.array([0, 0, 0.08]), 0.3)
    both = Mesh(
        np.concatenate([ball.vertices, nose.vertices]),
        np.concatenate([ball.triangles, nose.triangles + len(ball.vertices)]),
    )
    front, turned = (portrait(both, EmbreeRasterizer(), 96, yaw) for yaw in (0, 60))
    dark = [np.nonzero((picture[..., 0] < 255).any(axis=0))[0] for picture in (front, turned)]
    assert dark[0][0] + dark[0][-1] == pytest.approx(95, abs=2)
    assert dark[1][-1] - 47.5 > 47.5 - dark[1][0] + 3


def test_sheet_fills_the_last_row_with_white():
    pictures = [np.zeros((4, 5, 3), np.uint8)] * 3
    out = sheet(pictures, 2)
    assert out.shape == (8, 10, 3) and (out[4:, 5:] == 255).all()
