"""How a battery speaks: a truth that does not hold is a `VerificationError` with both sides in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from davatar.core.errors import VerificationError


def require(holds: bool, message: str) -> None:
    """
    Raises:
        VerificationError: `holds` is false.
    """
    if not holds:
        raise VerificationError(message)


def require_array(value: Any, shape: tuple[int, ...], dtype: Any, what: str) -> None:
    """An array of this shape and kind; the message shows both."""
    found = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
    same = isinstance(value, np.ndarray) and value.shape == shape and np.issubdtype(value.dtype, dtype)
    require(same, f"{what} is {found}, expected {np.dtype(dtype).name} {list(shape)}")


def require_close(value: np.ndarray, expected: np.ndarray | float, tolerance: float, what: str) -> None:
    error = float(np.max(np.abs(np.asarray(value, np.float64) - expected), initial=0.0))
    require(error <= tolerance, f"{what} is off by up to {error:.3g}, at most {tolerance:.3g} is allowed")
