import pytest
import torch

from davatar.core import plugins
from davatar.core.errors import DataError
from davatar.testing import check_metric


@pytest.fixture
def flip():
    return plugins.load("davatar.metrics", "flip")()


def test_contract(flip):
    check_metric(flip)


def test_it_is_what_the_evaluator_says(flip):
    """Black against white is the largest error FLIP knows of a plain colour; equal pictures have none."""
    black, white = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    assert flip(white, white) == 0
    assert 0.9 < flip(black, white) <= 1


def test_the_mean_over_a_batch_is_the_mean_of_its_pictures(flip):
    generator = torch.Generator().manual_seed(1)
    target, prediction = torch.rand(3, 3, 40, 48, generator=generator), torch.rand(3, 3, 40, 48, generator=generator)
    single = [flip(prediction[k : k + 1], target[k : k + 1]) for k in range(3)]
    assert flip(prediction, target) == pytest.approx(sum(single) / 3, rel=1e-5)


def test_an_empty_mask_is_an_error(flip):
    picture = torch.zeros(1, 3, 16, 16)
    with pytest.raises(DataError, match="mask is empty"):
        flip(picture, picture, torch.zeros(1, 16, 16))
