"""Benches at toy size: rows fit together and both ways agree; how fast they are is nobody's test."""

import json

import numpy as np
import pytest
import torch

from davatar.checks.bench import BENCHES, bench
from davatar.checks.bench.head_model import field, multiplications, random_model, surfaces
from davatar.checks.bench.plain_head_model import plain_sdf_and_gradient
from davatar.checks.bench.rows import Options, Row, in_turn
from davatar.core.errors import UsageError
from davatar.headmodel.nphm import NPHMConfig

TOY = Options(seconds=0.0, resolution=40)
SMALL = NPHMConfig(
    global_size=4, local_size=2, anchors=12, pairs=4, member_width=8, member_layers=2, position_width=6, hyper=2,
    expression_size=5, compressed_size=3, deformation_width=10, deformation_layers=4, linear_rank=6, product_rank=4,
)  # fmt: skip


def toy(**changes):
    anchors = 0.2 * np.random.default_rng(0).standard_normal((12, 3))
    return random_model(NPHMConfig(**{**SMALL.__dict__, **changes}), anchors)


@pytest.mark.parametrize("changes", [{}, {"head": "product", "activation": "silu", "member_cut": 0.01}])
def test_the_plain_way_is_the_same_function(changes):
    model = toy(**changes)
    model.network.double()
    draw = torch.Generator().manual_seed(2)
    x, identity, expression = (
        torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((30, 3), (30,), (5,))
    )
    for plain, ours in zip(
        plain_sdf_and_gradient(model.network, 0.3 * x, identity, expression),
        model.sdf_and_gradient(0.3 * x, identity, expression, max_queries=7),
        strict=True,
    ):
        torch.testing.assert_close(plain.detach(), ours)


def test_multiplications_are_those_of_the_layers():
    model = toy()
    decoder, deformation = model.network.identity, model.network.deformation
    member = decoder.weights[0][0, :, -5:].numel() + sum(w[0].numel() for w in decoder.weights[1:])
    codes = SMALL.compressed_size + SMALL.expression_size
    trunk = sum(layer.weight.numel() for layer in deformation.layers) - 2 * SMALL.deformation_width * codes
    assert multiplications(model, 7.0) == 7 * member + trunk


def test_field_rows_are_consistent():
    rows = field(toy(), "toy", 50, 1e9, TOY)
    assert [row.what for row in rows[:2]] == ["toy: forward, 50 queries", "toy: forward + gradient, 50 queries"]
    for row in rows[:2]:
        assert row.plain > 0 and row.ratio == pytest.approx(row.ours / row.plain)
    assert rows[2].ours < 1e-6, "both ways give the same values"


def test_surface_rows_are_consistent():
    model = toy()
    with torch.no_grad():  # a plane through the box, slightly bent by the random members
        x = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 0.5
        codes = torch.zeros(model.identity_size), torch.zeros(model.expression_size)
        model.network.identity.biases[-1] -= model.sdf(x, *codes).median()
    rows = {row.what: row for row in surfaces(model, TOY, checked=20)}
    queries = rows["surface at 40^3: queries"]
    assert queries.plain == 40**3 and 0 < queries.ours < queries.plain
    assert queries.ratio == pytest.approx(queries.plain / queries.ours)
    following = rows["surface at 40^3: next frame, queries"]
    assert following.plain == queries.ours and following.ours > 0
    assert rows["vertices at 20^3: first frame"].ours < 1e-4
    assert rows["vertices at 20^3: third frame"].ours < 1e-4


def test_both_ways_run_in_turn():
    order = []
    taken = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, Options(seconds=60), most=3)
    assert order == ["a", "b"] * 3 and taken["a"].runs == 3 and taken["b"].median > 0


def test_names_and_command(cli, monkeypatch):
    with pytest.raises(UsageError, match="no bench 'head' .*head-model"):
        bench("head", TOY)
    monkeypatch.setitem(BENCHES, "toy", f"{__name__}:rows_of_a_toy")
    found = cli("bench", "toy", "--json", "--quick", "--threads", 2)
    assert found.code == 0
    value = json.loads(found.out)
    assert value["options"] | {"threads": 2, "quick": True, "resolution": 64, "seconds": 2.0} == value["options"]
    assert value["rows"][0]["ratio"] == 4.0
    assert "4.00x" in cli("bench", "toy").out
    assert cli("bench", "nothing").code == 2


def rows_of_a_toy(options, progress):
    return [Row("toy", 2.0, 8.0, "queries/s", 4.0, "a note")]
