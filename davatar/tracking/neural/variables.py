"""What the neural stage solves for, and how it becomes codes of the head model.

Gauss-Newton moves along bases: expression code = basis @ coefficients, identity code += basis @ step. For the open
model the bases are the fixed maps from morphable coefficients (100 and 53 numbers, weights bounded to 0..1); for a
published model, which has no such maps, they are the identity matrix. Poses are those of the morphable frame,
x_camera = R x + t, camera axes, m; x_H = 4 x + OFFSET.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.morphable import UNITS_PER_METRE, to_head_units
from davatar.tracking import so3
from davatar.tracking.surface import HEAD_CENTER

POSE = 6


@dataclass(frozen=True)
class CodeSpace:
    model: HeadModel
    identity_basis: Tensor  # [Di, K]
    expression_basis: Tensor  # [De, J]
    bounded: bool  # expression coefficients stay in 0..1
    morphable: bool  # coefficients are those of the morphable model, with its Gaussians

    @staticmethod
    def of(model: HeadModel) -> CodeSpace:
        if model.maps is None:
            eye = torch.eye(model.identity_size, dtype=model.dtype), torch.eye(model.expression_size, dtype=model.dtype)
            return CodeSpace(model, *eye, bounded=False, morphable=False)
        identity = torch.as_tensor(model.maps.identity, dtype=model.dtype)
        expression = torch.diag(torch.as_tensor(model.maps.expression, dtype=model.dtype))
        return CodeSpace(model, identity, expression, bounded=True, morphable=True)

    def expression(self, coefficients: np.ndarray) -> Tensor:
        """[..., J] -> [..., De]"""
        return torch.as_tensor(coefficients, dtype=self.model.dtype) @ self.expression_basis.T

    def expression_coefficients(self, codes: np.ndarray) -> np.ndarray:
        """[..., De] -> [..., J], the inverse of `expression`."""
        return np.linalg.solve(self.expression_basis.numpy().astype(np.float64), codes[..., None])[..., 0]

    @cached_property
    def identity_inverse(self) -> np.ndarray:
        """[K, Di]: identity code -> its coefficients, least squares."""
        basis = self.identity_basis.numpy().astype(np.float64)
        return np.linalg.pinv(basis) if self.morphable else basis

    def start(self, identity: np.ndarray, expression: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Identity code [Di] and expression coefficients [T, J] to start from, from the linear fit's [100], [T, 53]."""
        if self.morphable:
            return self.identity_basis.numpy().astype(np.float64) @ identity, expression.astype(np.float64)
        return np.zeros(self.model.identity_size), np.zeros((len(expression), self.model.expression_size))


@dataclass(frozen=True)
class NeuralState:
    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3] m
    expression: np.ndarray  # [J] coefficients

    @property
    def center(self) -> np.ndarray:
        """[3] m, camera axes: where the head's centre is."""
        return self.rotation @ HEAD_CENTER + self.translation

    def to_head(self, points: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """[N, 3] m, camera axes -> head-model units; `scale` m per metre of the model."""
        return to_head_units((points - self.translation) @ self.rotation / scale)


def stepped(state: NeuralState, step: np.ndarray, bounded: bool) -> NeuralState:
    """The state after a step [6 + J]: turned about the head's centre, shifted, coefficients moved."""
    rotation = so3.orthonormal(so3.exp(step[:3]) @ state.rotation)
    expression = state.expression + step[POSE:]
    if bounded:
        expression = np.clip(expression, 0, 1)
    return NeuralState(rotation, state.center + step[3:POSE] - rotation @ HEAD_CENTER, expression)


def bounds(state: NeuralState, bounded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest step that keeps the coefficients in range."""
    low = np.full(POSE + len(state.expression), -np.inf)
    high = -low
    if bounded:
        low[POSE:], high[POSE:] = -state.expression, 1 - state.expression
    return low, high


MM_PER_UNIT = 1000 / UNITS_PER_METRE
