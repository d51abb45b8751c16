"""The field's own truths: gradients, mirror symmetry, continuity, linear faint movements, grouped = one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from davatar.headmodel.nphm import NPHM, NPHMConfig

SMALL = NPHMConfig(
    global_size=4, local_size=2, anchors=12, pairs=4, member_width=8, member_layers=2, position_width=6, hyper=2,
    expression_size=5, compressed_size=3, deformation_width=10, deformation_layers=4, linear_rank=6, product_rank=4,
)  # fmt: skip


def small(**changes) -> NPHM:
    torch.manual_seed(3)
    anchors = 0.3 * torch.randn(12, 3)
    anchors[1:8:2] = anchors[0:8:2] * torch.tensor([-1.0, 1.0, 1.0])
    anchors[8:, 0] = 0
    config = NPHMConfig(**{**SMALL.__dict__, **changes})
    return NPHM(config, anchors).double()


def codes(heads=2):
    generator = torch.Generator().manual_seed(1)
    identity = 0.5 * torch.randn(heads, SMALL.identity_size, generator=generator, dtype=torch.float64)
    expression = torch.rand(heads, 5, generator=generator, dtype=torch.float64)
    return identity, expression, 0.3 * torch.randn(heads, 6, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("changes", [{}, {"head": "product", "activation": "silu", "member_cut": 0.01}])
def test_gradients_agree_with_finite_differences(changes):
    model, (identity, expression, x) = small(**changes), codes()
    if changes:
        model.deformation.anchor_motion.data.normal_(std=0.05)
    inputs = tuple(v.requires_grad_() for v in (x[:, :3], identity, expression))
    assert torch.autograd.gradcheck(model, inputs, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("changes", [{"activation": "silu"}, {"head": "product", "activation": "silu"}])
def test_second_order_gradients(changes):
    model, (identity, expression, x) = small(**changes), codes(1)

    def steepness(identity, expression):
        points = x[:1, :2].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model(points, identity, expression).sum(), points, create_graph=True)
        return (gradient**2).sum()

    assert torch.autograd.gradcheck(steepness, (identity.requires_grad_(), expression.requires_grad_()), atol=1e-5)


def mirrored_identity(identity, config):
    top, local = identity[:, : config.global_size], identity[:, config.global_size :].reshape(len(identity), -1, 2)
    order = [k ^ 1 if k < 2 * config.pairs else k for k in range(config.anchors + 1)]
    return torch.cat([top, local[:, order].flatten(1)], dim=1)


def test_a_mirrored_pair_swaps_sides():
    """Swapping the local codes of all pairs mirrors the pairs' members; mid-plane members are silenced here."""
    model, (identity, _, x) = small(), codes()
    with torch.no_grad():
        for layer in model.identity.position:
            layer.weight.zero_(), layer.bias.zero_()
        last = model.identity.weights[-1]
        last[4:] = 0
        model.identity.biases[-1][4:] = 0
    points = torch.cat([x, torch.zeros(2, 6, 2, dtype=x.dtype)], dim=-1)
    mirror = points * torch.tensor([-1.0, 1, 1, 1, 1])
    one = model.identity(points, identity)
    other = model.identity(mirror, mirrored_identity(identity, SMALL))
    torch.testing.assert_close(one, other)


def test_mirrored_codes_mirror_the_field():
    """The whole field, once what sits on the mid-plane is even in x: anchors, their networks and no deformation."""
    model, (identity, expression, x) = small(), codes()
    config, pairs = SMALL, 2 * SMALL.pairs
    with torch.no_grad():
        model.identity.weights[0][config.pairs :, :, config.global_size + config.local_size] = 0
        last = model.identity.position[-1]
        weight, bias = last.weight.view(config.anchors, 3, -1), last.bias.view(config.anchors, 3)
        for values in (weight, bias):
            values[1:pairs:2] = values[0:pairs:2]
            values[1:pairs:2, 0] *= -1
            values[pairs:, 0] = 0
        model.deformation.layers[-1].weight.zero_(), model.deformation.layers[-1].bias.zero_()
    one = model(x, identity, expression)
    other = model(x * torch.tensor([-1.0, 1.0, 1.0]), mirrored_identity(identity, SMALL), expression)
    torch.testing.assert_close(one, other)
    assert one.std() > 0.01, "there is something to mirror"


@pytest.mark.parametrize("changes", [{}, {"activation": "silu", "member_cut": 0.01}])
def test_networks_side_by_side_and_one_by_one_agree(changes, monkeypatch):
    model, (identity, _, x) = small(**changes), codes()
    points = torch.cat([x, torch.zeros(2, 6, 2, dtype=x.dtype)], dim=-1).requires_grad_()
    found = []
    for few in (0, 10**9):
        monkeypatch.setattr("davatar.headmodel.ensemble.FEW_ROWS", few)
        monkeypatch.setattr("davatar.headmodel.ensemble.PADDING", 10**9)
        value = model.identity(points, identity)
        found.append((value, *torch.autograd.grad(value.square().sum(), (points, *model.identity.parameters()))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert model.identity(points[:, :0], identity).shape == (2, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-4, 1e-3, 1e-2]))
def test_skipping_members_keeps_its_bound(seed, share):
    """Shares left out times the largest difference between members' values, as the module promises."""
    model = small()
    generator = torch.Generator().manual_seed(seed)
    identity = torch.randn(1, SMALL.identity_size, generator=generator, dtype=torch.float64)
    points = torch.cat([0.3 * torch.randn(1, 12, 3, generator=generator), torch.zeros(1, 12, 2)], dim=-1).double()
    with torch.no_grad():
        exact = model.identity(points, identity)
        slots, weights = model.identity.blend(points[..., :3], model.identity.anchors(identity))
        silent = weights <= share
        alone = torch.empty_like(weights)
        for member in range(weights.shape[-1]):  # each member's own value: a blend in which only it is heard
            model.identity.blend = lambda *_, m=member: (
                slots,
                torch.eye(weights.shape[-1]).double()[m].expand_as(weights),
            )
            alone[..., member] = model.identity(points, identity)
        del model.identity.blend
        model.identity.skip_below = share
        changed = (model.identity(points, identity) - exact).abs()
    bound = (weights * silent).sum(-1) * (alone.amax(-1) - alone.amin(-1))
    assert (changed <= bound + 1e-7 * alone.abs().amax(-1)).all()  # shares sum to 1 less 1e-8 / their raw sum
    assert (silent.sum(-1) > 0).any() or share < 1e-2


def test_rows_are_independent_and_grouping_changes_nothing():
    model, (identity, expression, x) = small(head="product", member_cut=0.01), codes()
    with torch.no_grad():
        whole = model(x, identity, expression)
        for b in range(2):
            for n in range(6):
                alone = model(x[b : b + 1, n : n + 1], identity[b : b + 1], expression[b : b + 1])
                torch.testing.assert_close(alone[0, 0], whole[b, n])


def test_field_is_continuous_where_members_fall_silent():
    model, (identity, expression, _) = small(head="product", activation="silu", member_cut=0.05), codes(1)
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    line = torch.tensor([[-0.5, -0.3, 0.2]]) * (1 - t) + torch.tensor([[0.5, 0.4, -0.3]]) * t
    values = model(line[None], identity, expression)[0]
    jumps = (values[1:] - values[:-1]).abs()
    assert jumps.max() < 20 * jumps.median() + 1e-4


def test_first_product_term_is_exactly_linear():
    model, (identity, expression, x) = small(head="product", activation="silu"), codes()
    with torch.no_grad():
        model.deformation.amount[1].zero_()
    anchors = model.identity.anchors(identity)
    at = [model.deformation(x, identity, share * expression, anchors)[0] for share in (0.0, 0.1, 1.0)]
    torch.testing.assert_close(at[1] - at[0], 0.1 * (at[2] - at[0]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.01, 0.05]))
def test_blend_weights_are_a_partition(seed, cut):
    model = small(member_cut=cut)
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(1, 9, 3, generator=generator, dtype=torch.float64)
    anchors = model.identity.mean_anchors[None]
    slots, weights = model.identity.blend(points, anchors)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    assert (weights >= 0).all() and (slots[..., -1] == 12).all()
    distance = (points[:, :, None] - anchors[:, None]).norm(dim=-1)
    assert torch.equal(slots[..., :-1], distance.topk(8, largest=False).indices)
