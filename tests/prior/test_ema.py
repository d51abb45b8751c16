import torch

from davatar.checks.verify.dphm_prior_training import CHECKS
from davatar.prior.ema import Ema


def test_recurrence_equals_the_published_one(recomputed, shared):
    recomputed(CHECKS, shared / "golden" / "dphm" / "C_ema.npz")


def test_average_follows_and_lags():
    ema = Ema(decay=0.5, every=1, start=0)
    for value in (1.0, 0.0, 0.0):
        ema.update({"w": torch.tensor([value])})
    assert 0 < ema.average["w"].item() < 1
