"""Inputs of the conformance vectors: sines that need no files (spec dphm 10)."""

import numpy as np
import pytest
import torch


def _wave(n, a, b, scale):
    return scale * np.sin(a * np.arange(n) + b)


def _wave_weights(module):
    """Fill a module as spec dphm 10 says: tensor k of the sorted names, element i."""
    state = {}
    for k, name in enumerate(sorted(module.state_dict())):
        shape = module.state_dict()[name].shape
        v = np.sin(0.37 * np.arange(int(np.prod(shape))) + 1.3 * k + 0.5).reshape(shape)
        if name.endswith(".g") or (len(shape) == 1 and name.endswith("norm.weight")):
            v = 1 + 0.1 * v
        elif len(shape) >= 2:
            v = 1.2 * v / np.sqrt(np.prod(shape[1:]))
        else:
            v = 0.1 * v
        state[name] = torch.as_tensor(v)
    module.double().load_state_dict(state)
    return module


@pytest.fixture
def wave():
    return _wave


@pytest.fixture
def wave_weights():
    return _wave_weights
