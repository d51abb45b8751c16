import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davatar.core.errors import DataError
from davatar.dataset import quantisers as q


def test_published_vectors():
    """Spec 10.1 to 10.4."""
    normals = np.array([[0, 0, 0], [0, 0, 1], [0, 0, -1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0.6, -0.48, 0.64]])
    codes = [
        [0, 0, 0],
        [255, 1, 128],
        [255, 255, 128],
        [255, 128, 128],
        [255, 128, 255],
        [255, 128, 192],
        [255, 72, 101],
    ]
    np.testing.assert_array_equal(q.NORMALS.encode(normals), codes)
    np.testing.assert_allclose(
        q.NORMALS.decode(np.array(codes, np.uint8))[-1], (0.604206, -0.476621, 0.638567), atol=1e-6
    )
    depth = np.array([[0, 0.5, 0.894737, 2, 2.3]], np.float32)
    np.testing.assert_array_equal(q.DEPTH.encode(depth), [[0, 16384, 29319, 65535, 0]])
    np.testing.assert_allclose(q.clip_depth(np.array([0.1, 0.5, 1, 2])), (-0.1, 0.34210526, 0.89473684, 2), atol=1e-8)
    uv = np.array([[[0, 0.5, 1], [0.25, 0.125, 0.9]]])
    np.testing.assert_array_equal(q.UV16.encode(uv), [[[1, 32768, 65535], [16384, 8193, 58982]]])
    np.testing.assert_array_equal(q.UV8.encode(uv[..., :2]), [[[1, 128], [64, 33]]])


@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_a_number_comes_back_within_half_a_step(values):
    pixel = np.array(values, np.float32)
    if not pixel.any():
        pixel[0] = 0.5
    np.testing.assert_allclose(q.UV16.decode(q.UV16.encode(pixel)), pixel, atol=0.51 / 65534)


def test_the_way_to_clip_space_and_to_the_box_is_invertible():
    depth = np.linspace(0.2, 1.9, 7)
    np.testing.assert_allclose(q.camera_depth(q.clip_depth(depth)), depth)
    canonical = np.random.default_rng(0).uniform(-0.19, 0.19, (6, 5))
    share = q.normalise_canonical(canonical)
    np.testing.assert_allclose(q.denormalise_canonical(share[:, :3]), canonical[:, :3], atol=1e-7)
    np.testing.assert_allclose(q.denormalise_canonical(share[:, 3:], first=3), canonical[:, 3:], atol=1e-7)


def test_what_does_not_fit_is_an_error():
    for values in ([0.2, 1.1, 0.3], [0.2, np.nan, 0.3]):
        with pytest.raises(DataError, match="range ends at 1"):
            q.UV16.encode(np.array(values))
