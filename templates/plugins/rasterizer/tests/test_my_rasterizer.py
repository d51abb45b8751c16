import numpy as np

from davatar.core import plugins
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh
from davatar.testing import check_rasterizer


def test_contract():
    check_rasterizer(plugins.load("davatar.rasterizers", "my-rasterizer"))


def test_it_agrees_with_embree_on_a_tilted_triangle():
    mesh = Mesh(np.array([[-0.5, -0.4, 1.0], [0.6, -0.3, 2.0], [0.0, 0.5, 1.4]]), np.array([[0, 1, 2]], np.int32))
    camera = Camera.pinhole(40, 40, 15.3, 12.1, width=32, height=24)
    mine, theirs = (
        plugins.load("davatar.rasterizers", name)().rasterize(mesh, camera) for name in ("my-rasterizer", "embree")
    )
    both = mine.mask & theirs.mask
    assert both.sum() > 100 and (mine.mask ^ theirs.mask).sum() <= 2  # a centre on an edge may fall on either side
    assert np.abs(mine.depth - theirs.depth)[both].max() < 1e-4
    assert np.abs(mine.barycentric - theirs.barycentric)[both].max() < 1e-4
