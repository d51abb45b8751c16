import numpy as np
import torch

from davatar.prior.ema import Ema


def test_recurrence_equals_the_published_one(shared):
    golden = np.load(shared / "golden" / "dphm" / "C_ema.npz")
    ema = Ema()
    for online, expected in zip(golden["online_weight"], golden["ema_weight"], strict=True):
        ema.update({"weight": torch.as_tensor(online)})
        np.testing.assert_allclose(ema.average["weight"].numpy(), expected, rtol=1e-6)


def test_average_follows_and_lags():
    ema = Ema(decay=0.5, every=1, start=0)
    for value in (1.0, 0.0, 0.0):
        ema.update({"w": torch.tensor([value])})
    assert 0 < ema.average["w"].item() < 1
