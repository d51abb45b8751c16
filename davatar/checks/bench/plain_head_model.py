"""The head model evaluated the way its specification reads (spec dphm 1.3-1.6): what ours is compared with.

Codes are repeated for every point and concatenated to it; all members' rows are gathered and the 24 networks run
one after the other; nothing is skipped. Parameters are those of our modules. One head, posed points [N, 3].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from davatar.headmodel.deformation import LinearHead, ProductHead
from davatar.headmodel.ensemble import GLOBAL_DISTANCE
from davatar.headmodel.nphm import NPHM


def plain_sdf(network: NPHM, x: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
    """Signed distance [N] at posed points [N, 3]; codes [Di], [De]."""
    anchors = network.identity.anchors(identity[None])[0]
    codes = network.deformation.compressor(torch.cat([identity, anchors.flatten()]))
    deform = _linear if isinstance(network.deformation, LinearHead) else _product
    offset, hyper = deform(network.deformation, x, codes.expand(len(x), -1), expression.expand(len(x), -1), anchors)
    return _ensemble(network, torch.cat([x + offset, hyper], dim=-1), identity, anchors)


def plain_sdf_and_gradient(network: NPHM, x: Tensor, identity: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
    """The same, with the gradient [N, 3] and its graph (spec dphm 1.7)."""
    x = x.detach().requires_grad_()
    value = plain_sdf(network, x, identity, expression)
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return value, gradient


def _linear(head: LinearHead, x: Tensor, codes: Tensor, expression: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    given = hidden = torch.cat([x, codes, expression], dim=-1)
    for k, layer in enumerate(head.layers):
        if k == head.middle and k > 0:
            hidden = torch.cat([hidden, given], dim=-1) / math.sqrt(2)
        hidden = layer(hidden)
        if k < len(head.layers) - 1:
            hidden = head.activation(hidden)
    return hidden[:, :3], hidden[:, 3:]


def _product(head: ProductHead, x: Tensor, codes: Tensor, expression: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    square = ((x[:, None] - anchors) ** 2).sum(-1)
    pull = torch.softmax(-0.5 * square / head.config.prewarp_std**2, dim=-1)
    on_mean = x - pull @ (anchors - head.mean_anchors)
    at_rest = on_mean - pull @ (head.anchor_motion @ expression[0])
    hidden = torch.cat([x, on_mean, codes], dim=-1)
    for layer in head.place:
        hidden = head.activation(layer(hidden))
    bent = torch.cat([hidden, x, on_mean, at_rest, codes, expression], dim=-1)
    for layer in head.bend:
        bent = head.activation(layer(bent))
    second, hyper = head.bend_features(bent).split([head.config.product_rank, head.config.hyper], dim=-1)
    amount = F.pad(expression[0], (0, 1), value=1.0)
    return head.place_features(hidden) @ (head.amount[0] @ amount) + second @ (head.amount[1] @ amount), hyper


def _ensemble(network: NPHM, points: Tensor, identity: Tensor, anchors: Tensor) -> Tensor:
    config, decoder = network.config, network.identity
    distance = (points[:, None, :3] - anchors).norm(dim=-1)
    nearest = distance.topk(config.neighbours, dim=-1, largest=False).indices
    distance = distance.gather(1, nearest)
    sigma = distance[:, :8].amax(1, keepdim=True) / config.blend_std
    distance = F.pad(distance, (0, 1), value=GLOBAL_DISTANCE)
    raw = torch.exp(-0.5 * (distance / sigma) ** 2)
    weights = raw / (raw.sum(1, keepdim=True) + 1e-8)
    if config.member_cut > 0:
        weights = F.relu(weights - config.member_cut)
        weights = weights / weights.sum(1, keepdim=True)
    slots = F.pad(nearest, (0, 1), value=config.anchors)
    centres = F.pad(anchors, (0, points.shape[1] - 3, 0, 1))
    delta = (points[:, None] - centres[slots]) * decoder.sign[slots]
    top, local = identity[: config.global_size], identity[config.global_size :].unflatten(0, (-1, config.local_size))
    rows = torch.cat([top.expand(*slots.shape, -1), local[slots], delta], dim=-1)
    kinds, values = decoder.types[slots], points.new_zeros(slots.shape)
    for kind in range(len(decoder.weights[0])):
        chosen = kinds == kind
        hidden = rows[chosen]
        for layer, (weight, bias) in enumerate(zip(decoder.weights, decoder.biases, strict=True)):
            hidden = F.linear(hidden, weight[kind], bias[kind])
            if layer < config.member_layers:
                hidden = decoder.activation(hidden)
        values = values.masked_scatter(chosen, hidden)
    return (weights * values).sum(1)
