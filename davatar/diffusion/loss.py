"""The training loss of a discrete-time diffusion model: weighted squared error of the network's output."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from davatar.diffusion.parameterization import PredictionType, add_noise, loss_weights, target
from davatar.diffusion.schedule import NoiseSchedule

Network = Callable[[Tensor, Tensor], Tensor]  # (noisy [B, ...], t [B]) -> output [B, ...]


def item_losses(
    network: Network, schedule: NoiseSchedule, prediction: PredictionType, clean: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Loss of each item.

    Args:
        clean: [B, ...] normalised samples.
        t: [B] int time indices.
        noise: like `clean`, unit normal.

    Returns:
        [B]: mean squared error over the item times its time's weight. Gradients flow to the network and,
        through the noisy sample and the target, to `clean`.
    """
    signal, noise_scale = schedule.at(t, clean)
    output = network(add_noise(clean, noise, signal, noise_scale), t)
    error = (output - target(prediction, clean, noise, signal, noise_scale)).square().flatten(1).mean(dim=1)
    weights = torch.as_tensor(loss_weights(schedule, prediction)[t.detach().cpu().numpy()]).to(error)
    return weights * error


def training_loss(
    network: Network, schedule: NoiseSchedule, prediction: PredictionType, clean: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Mean of `item_losses` over the batch."""
    return item_losses(network, schedule, prediction, clean, t, noise).mean()
