import torch

from davatar.core import plugins
from davatar.testing import check_metric


def test_contract():
    check_metric(plugins.load("davatar.metrics", "my-metric")())


def test_value():
    metric = plugins.load("davatar.metrics", "my-metric")()
    grey = torch.full((1, 3, 8, 8), 0.5)
    assert abs(metric(grey + 0.25, grey) - 0.25) < 1e-6
