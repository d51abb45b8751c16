"""The published training against numbers of the original: losses, code gradients, three optimisation steps."""

import numpy as np
import pytest
import torch

from davatar.checks.verify.dphm_training import CHECKS
from davatar.headmodel.auto_decoder import rate_factor
from davatar.headmodel.code_table import CodeTable
from davatar.headmodel.published_losses import WEIGHTS


@pytest.mark.parametrize("name", ["losses", "steps"])
def test_golden_losses_and_steps(recomputed, shared, name):
    """Losses at every switch of the epochs, gradients; three steps of networks and tables, float64."""
    recomputed(CHECKS, shared / "golden" / "dphm" / f"A_training_{name}.npz")


def test_published_weights_are_kept(shared):
    arrays = np.load(shared / "golden" / "dphm" / "A_training_losses.npz")
    assert dict(zip(arrays["loss_names"].tolist(), arrays["lambdas"].tolist(), strict=True)) == WEIGHTS


def test_a_code_table_moves_only_what_is_looked_up():
    table = CodeTable(4, 3, rate=0.1)
    table.weight.data.copy_(torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0.1, 0, 0], [0, 0, 0.5]]))
    rows = torch.tensor([0, 2, 0])
    codes = table.look_up(rows)
    torch.testing.assert_close(codes[0], torch.tensor([1.0, 0, 0]))
    assert table.weight[1, 1] == 3.0, "rows that are not asked keep their norm"
    before = table.weight.detach().clone()
    (codes * torch.tensor([[1.0], [1.0], [3.0]])).sum().backward()
    table.step(rows, codes.grad)
    moved = table.weight.detach() - before
    assert (moved[[1, 3]] == 0).all() and (moved[[0, 2]] < 0).all()
    other = CodeTable(4, 3, rate=0.1)
    other.restore(table.state())
    assert torch.equal(other.weight, table.weight)


def test_rates_halve_at_their_epochs():
    changes = [epoch for epoch in range(1, 1900) if rate_factor(epoch) < rate_factor(epoch - 1)]
    assert changes == [350, 700, 1050, 1300, 1550, 1800]
    assert rate_factor(0) == 1 and rate_factor(1050) == 0.125
