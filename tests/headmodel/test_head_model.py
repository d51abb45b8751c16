"""`HeadModel` and its files: shapes, codes and back, meshes, round trip, damage."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from davatar.core.errors import ConfigError, DataError, MissingError
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.weights import load_weights, save_weights


@pytest.fixture(scope="module")
def coefficients():
    rng = np.random.default_rng(4)
    return rng.standard_normal(100), rng.random(53)


def test_sizes_and_leading_axes(tiny_model, coefficients):
    identity, expression = tiny_model.codes(*coefficients)
    assert (tiny_model.identity_size, tiny_model.expression_size) == (1344, 53)
    x = 0.2 * torch.randn(2, 3, 7, 3, generator=torch.Generator().manual_seed(0))
    values = tiny_model.sdf(x, identity, expression)
    assert values.shape == (2, 3, 7)
    assert tiny_model.to_canonical(x, identity, expression.expand(3, 53)).shape == (2, 3, 7, 5)
    assert tiny_model.anchors(identity.expand(4, -1)).shape == (4, 39, 3)
    many = tiny_model.sdf(x[0, 0], identity.expand(5, -1), expression)
    assert many.shape == (5, 7)
    torch.testing.assert_close(many[2], values[0, 0])


def test_codes_and_coefficients_are_inverse(tiny_model, coefficients):
    back = tiny_model.coefficients(*tiny_model.codes(*coefficients))
    np.testing.assert_allclose(back[0], coefficients[0], atol=1e-4)
    np.testing.assert_allclose(back[1], coefficients[1], atol=1e-5)


def test_anchors_sit_on_the_morphable_head(tiny_model):
    """The global code moves anchors exactly as the morphable model moves their vertices."""
    from davatar.headmodel.ict_codes import GLOBAL, anchor_vertices
    from davatar.headmodel.ict_surface import canonical_expression
    from davatar.headmodel.morphable import open_morphable, to_head_units

    model = open_morphable()
    identity = np.zeros(100)
    identity[:GLOBAL] = np.random.default_rng(1).standard_normal(GLOBAL)
    wanted = to_head_units(model.vertices(identity, canonical_expression(model)))[anchor_vertices(model)]
    found = tiny_model.anchors(tiny_model.codes(identity, np.zeros(53))[0])
    np.testing.assert_allclose(found, wanted, atol=2e-4)  # half-precision code map


def test_wrong_codes_are_named(tiny_model):
    with pytest.raises(DataError, match="identity code has 12 numbers, .* takes 1344"):
        tiny_model.sdf(torch.zeros(1, 3), torch.zeros(12), torch.zeros(53))


def test_mesh_equals_the_dense_grid(tiny_model):
    from scipy.spatial import cKDTree
    from skimage.measure import marching_cubes

    from davatar.headmodel.head_model import GRID

    identity, expression = tiny_model.codes(np.zeros(100), np.zeros(53))
    count = 28
    axes = [np.linspace(GRID[0, c], GRID[1, c], count) for c in range(3)]
    grid = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.float32))
    values = tiny_model.sdf(grid, identity, expression).reshape(count, count, count)
    level = float(values.median())
    tiny_model.network.identity.biases[-1] -= level
    try:
        values = tiny_model.sdf(grid, identity, expression).reshape(count, count, count).numpy()
        vertices = marching_cubes(-values, 0.0, method="lorensen")[0] * (GRID[1] - GRID[0]) / (count - 1) + GRID[0]
        mesh = tiny_model.mesh(identity, expression, count, keep_components=True)
        assert cKDTree(vertices).query(mesh.vertices)[0].max() < 1e-4
        assert cKDTree(mesh.vertices).query(vertices)[0].max() < 1e-4
        again = tiny_model.mesh(identity, expression, count, previous=mesh, keep_components=True)
        assert cKDTree(vertices).query(again.vertices)[0].max() < 1e-4
        torch.testing.assert_close(
            torch.from_numpy(mesh.canonical),
            tiny_model.to_canonical(torch.from_numpy(mesh.vertices), identity, expression),
            atol=1e-5, rtol=1e-5,
        )  # fmt: skip
    finally:
        tiny_model.network.identity.biases[-1] += level


def test_sdf_and_gradient_in_pieces(tiny_model, coefficients):
    identity, expression = tiny_model.codes(*coefficients)
    identity, expression = identity.expand(3, -1), expression * torch.tensor([[0.2], [0.6], [1.0]])
    x = 0.2 * torch.randn(2, 3, 7, 3, generator=torch.Generator().manual_seed(0))
    at = x.clone().requires_grad_()
    wanted = tiny_model.sdf(at, identity, expression)
    (slope,) = torch.autograd.grad(wanted.sum(), at)
    for most in (1, 4, 8, 1000):
        value, gradient = tiny_model.sdf_and_gradient(x, identity, expression, max_queries=most)
        torch.testing.assert_close(value, wanted.detach(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(gradient, slope, atol=1e-5, rtol=1e-4)
        assert not value.requires_grad and not gradient.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(tiny_model.sdf(x, identity, expression), wanted.detach(), atol=1e-6, rtol=1e-5)
        assert tiny_model.sdf(x[..., :0, :], identity, expression).shape == (2, 3, 0)


def test_products_keep_the_process_precision(tiny_model, coefficients):
    before = torch.get_float32_matmul_precision()
    seen = []
    handle = tiny_model.network.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    try:
        for tiny_model.tf32 in (True, False):
            tiny_model.sdf(torch.zeros(1, 3), *tiny_model.codes(*coefficients))
    finally:
        handle.remove()
        tiny_model.tf32 = False
    assert seen == ["high", "highest"] and torch.get_float32_matmul_precision() == before


def test_shares_to_skip_are_checked(tiny_model):
    assert tiny_model.skip_below == 0
    with pytest.raises(ConfigError, match="skip_below is 0.5, expected 0 to 0.1"):
        tiny_model.skip_below = 0.5


def test_sequence_is_mesh_after_mesh(tiny_model):
    from scipy.spatial import cKDTree

    identity, expression = tiny_model.codes(np.zeros(100), np.zeros(53))
    x = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    level = float(tiny_model.sdf(x, identity, expression).median())
    tiny_model.network.identity.biases[-1] -= level
    try:
        next_mesh = tiny_model.sequence(identity, 28)
        for amount in (0.0, 0.05, 0.1):
            moved = expression + amount
            found, wanted = next_mesh(moved), tiny_model.mesh(identity, moved, 28, with_canonical=False)
            assert wanted.canonical is None and len(found.triangles) == len(wanted.triangles)
            assert cKDTree(wanted.vertices).query(found.vertices)[0].max() < 1e-4
            canonical = tiny_model.to_canonical(torch.from_numpy(found.vertices), identity, moved)
            np.testing.assert_allclose(found.canonical, canonical, atol=1e-5)
    finally:
        tiny_model.network.identity.biases[-1] += level


def test_file_round_trip(tiny_file, tmp_path, tiny_settings):
    network, maps, metadata = load_weights(tiny_file)
    save_weights(tmp_path / "again.safetensors", network, maps, tiny_settings)
    again, maps_again, same = load_weights(tmp_path / "again.safetensors")
    assert metadata["hash"] == same["hash"] and "MIT" in metadata["licence"]
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert np.array_equal(maps.identity, maps_again.identity)


def test_damaged_files_are_refused(tiny_file, tmp_path):
    with pytest.raises(MissingError, match="no head model there"):
        HeadModel.from_pretrained(tmp_path / "absent.safetensors")
    data = tiny_file.read_bytes()
    for name, content in {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "headless": data[:8] + b"x" * 64 + data[72:],
        "boastful": (1 << 40).to_bytes(8, "little") + data[8:],
        "renamed": data.replace(b"model.identity.weights.0", b"model.identity.weighty.0", 1),
        "flipped": data[:-100] + bytes([data[-100] ^ 64]) + data[-99:],
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            HeadModel.from_pretrained(path)
        assert name in str(caught.value) and caught.value.exit_code == 3
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"kind": "something else"})
    with pytest.raises(DataError, match="is not a head model but 'something else'"):
        HeadModel.from_pretrained(tmp_path / "other.safetensors")


def test_published_models_have_no_coefficients(tiny_model):
    with pytest.raises(DataError, match="has no morphable coefficients"):
        HeadModel(tiny_model.network, None, "hash", "published").codes(np.zeros(100), np.zeros(53))
