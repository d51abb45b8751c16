"""One step of the published auto-decoder training: networks and code tables together (spec dphm 3.4, 3.5).

AdamW moves the two networks, each clipped by itself; sparse Adam moves the rows of the code tables
that the batch names. Rates halve at fixed epochs. What a batch holds is `scan_items`' business, what
is minimised `published_losses`', the loop is `published_training`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from davatar.headmodel.code_table import CodeTable
from davatar.headmodel.nphm import NPHM
from davatar.headmodel.published_losses import ScanBatch, published_losses, total_loss

FIRST_HALVINGS, LATER_HALVINGS, EVERY = (350, 700, 1050), 1300, 250  # epochs


@dataclass(frozen=True)
class Rates:
    network: float = 5e-4
    """AdamW, both networks."""
    weight_decay: float = 1e-3
    identity: float = 1e-3
    """Sparse Adam, identity codes."""
    expression: float = 1e-3
    """Sparse Adam, expression codes; the published settings file forgot it, a sibling release has 0.01."""
    clip: float = 1.0
    """Largest gradient norm of either network."""


def rate_factor(epoch: int) -> float:
    """What all learning rates are multiplied by: halved at 350, 700, 1050, and every 250 epochs from 1300."""
    halvings = sum(epoch >= at for at in FIRST_HALVINGS)
    halvings += (epoch - LATER_HALVINGS) // EVERY + 1 if epoch >= LATER_HALVINGS else 0
    return 0.5**halvings


class _Objective(nn.Module):
    """The losses as a module, so that several processes can share the networks' gradients."""

    def __init__(self, model: NPHM):
        super().__init__()
        self.model = model

    def forward(self, batch: ScanBatch, identity: Tensor, expression: Tensor, epoch: int) -> dict[str, Tensor]:
        return published_losses(self.model, batch, identity, expression, epoch)


class AutoDecoder:
    """
    Args:
        model: the networks, already on the accelerator's device.
        identities, expressions: rows of the two code tables.
        weights: factor of each loss; None for the published ones.
    """

    def __init__(
        self,
        model: NPHM,
        identities: int,
        expressions: int,
        rates: Rates | None = None,
        weights: dict[str, float] | None = None,
        accelerator: Accelerator | None = None,
    ):
        rates = rates or Rates()
        self.model, self.rates, self.weights, self.accelerator = model, rates, weights, accelerator
        reference = model.identity.mean_anchors
        config = model.config
        self.identity = CodeTable(identities, config.identity_size, rates.identity).to(reference)
        self.expression = CodeTable(expressions, config.expression_size, rates.expression).to(reference)
        optimiser = torch.optim.AdamW(model.parameters(), lr=rates.network, weight_decay=rates.weight_decay)
        objective = _Objective(model)
        if accelerator is not None:
            objective, optimiser = accelerator.prepare(objective, optimiser)
        self.objective, self.optimiser = objective, optimiser

    def _everywhere(self, value: Tensor) -> Tensor:
        """`value` of all processes, one after the other."""
        return value if self.accelerator is None else self.accelerator.gather(value)

    def set_epoch(self, epoch: int) -> None:
        """Learning rates of that epoch."""
        factor = rate_factor(epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = factor * self.rates.network
        self.identity.rate, self.expression.rate = factor * self.rates.identity, factor * self.rates.expression

    def step(self, batch: ScanBatch, identity_rows: Tensor, expression_rows: Tensor, epoch: int) -> dict[str, float]:
        """Take one optimisation step.

        Args:
            identity_rows, expression_rows: [B] rows of the code tables, int64.

        Returns:
            every loss by name, "loss" (their weighted sum), "norm_identity" and "norm_deformation" (gradient
            norms before clipping).

        Source: spec dphm 3.4, 3.5; reproduces the golden training steps (tests/headmodel/test_published_training.py).
        """
        self.set_epoch(epoch)
        everyone = [self._everywhere(rows) for rows in (identity_rows, expression_rows)]
        identity = self.identity.look_up(identity_rows, everyone[0])
        expression = self.expression.look_up(expression_rows, everyone[1])
        self.optimiser.zero_grad(set_to_none=True)
        losses = self.objective(batch, identity, expression, epoch)
        loss = total_loss(losses) if self.weights is None else total_loss(losses, self.weights)
        loss.backward() if self.accelerator is None else self.accelerator.backward(loss)
        norms = {}
        for name, part in (("identity", self.model.identity), ("deformation", self.model.deformation)):
            norms[f"norm_{name}"] = float(nn.utils.clip_grad_norm_(part.parameters(), self.rates.clip))
        self.optimiser.step()
        processes = 1 if self.accelerator is None else self.accelerator.num_processes
        for table, rows, codes in zip((self.identity, self.expression), everyone, (identity, expression), strict=True):
            table.step(rows, self._everywhere(codes.grad) / processes)
        return {name: float(value.detach()) for name, value in losses.items()} | {"loss": float(loss.detach())} | norms

    def state(self) -> dict:
        """Everything a later `restore` needs to go on with the same steps."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "identity": self.identity.state(),
            "expression": self.expression.state(),
        }

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.identity.restore(state["identity"])
        self.expression.restore(state["expression"])
