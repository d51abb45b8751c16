"""What training the open head model begins with: an untrained network, or one that was trained before."""

from __future__ import annotations

import math
from dataclasses import asdict

import torch
from torch import Tensor

from davatar.core.errors import DataError
from davatar.headmodel.head_model import HeadModel, find_head_model
from davatar.headmodel.ict_codes import CodeMaps
from davatar.headmodel.nphm import NPHM, NPHMConfig
from davatar.headmodel.open_settings import TrainingSettings


def first_model(settings: TrainingSettings, maps: CodeMaps) -> NPHM:
    """The network that training begins with: that of `settings.start`, or an untrained one.

    Raises:
        MissingError: no such file or run. DataError: no head model, or one of other sizes or codes.
    """
    if settings.start is None:
        return new_model(settings, maps)
    head = HeadModel.from_pretrained(find_head_model(settings.start))
    model = head.network
    if model.config != settings.model:
        ours = asdict(settings.model)
        other = ", ".join(f"{k} {v} instead of {ours[k]}" for k, v in asdict(model.config).items() if v != ours[k])
        raise DataError(
            f"a head model of other sizes: {other}", file=settings.start, mend="set model.* to the sizes of that file"
        )
    if head.maps is None:
        raise DataError(
            "a head model whose codes are not the morphable model's",
            file=settings.start,
            mend="start from one that the open recipe trained",
        )
    model.train().requires_grad_(True)
    model.identity.position.requires_grad_(False)
    return model


def new_model(settings: TrainingSettings, maps: CodeMaps) -> NPHM:
    """Untrained network: anchors exact from the start, first layers sharp in space, hyper coordinates at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return _new_model(settings.model, maps)


def _new_model(config: NPHMConfig, maps: CodeMaps) -> NPHM:
    model = NPHM(config, torch.from_numpy(maps.anchors))
    with torch.no_grad():
        kernel = model.identity.weights[0]
        kernel[..., -3 - config.hyper :] = 18 * torch.randn(*kernel.shape[:2], 3 + config.hyper) / math.sqrt(3)
        _linear_anchors(model, torch.from_numpy(maps.anchor_identity))
        if config.head == "product":
            model.deformation.anchor_motion.copy_(torch.from_numpy(maps.anchor_expression))
            model.deformation.place[0].weight[:, :6] = 3.5 * torch.randn(config.deformation_width, 6)
            model.deformation.bend[0].weight[:, config.deformation_width :][:, :9] = 2 * torch.randn(
                config.deformation_width, 9
            )
            model.deformation.bend_features.weight[config.product_rank :] = 0
            model.deformation.bend_features.bias[config.product_rank :] = 0
    for parameter in model.identity.position.parameters():
        parameter.requires_grad_(False)
    return model


def _linear_anchors(model: NPHM, motion: Tensor, lift: float = 64.0) -> None:
    """Make the anchors' ReLU network exactly linear: a bias keeps every unit positive, the last layer takes it off."""
    first, second, last = model.identity.position
    size = model.config.global_size
    for layer in (first, second):
        layer.weight.zero_()
        layer.weight[:size, :size] = torch.eye(size)
        layer.bias.zero_()
    first.bias[:size] = lift
    last.weight.zero_()
    last.weight[:, :size] = motion.flatten(0, 1)
    last.bias.copy_(-lift * last.weight.sum(dim=1))
