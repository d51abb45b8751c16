"""What an avatar must beat: the mean training picture, and the training picture nearest in pose and expression.

Arrays in, arrays out. Both know only what training saw. The head moves, so both are weak opponents;
an avatar below them has learned nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from davatar.core.errors import DataError

ROTATION_UNIT_DEG = 8.0  # a turn of 8 degrees weighs as much as one unit of expression distance


def mean_image(images: Iterable[np.ndarray]) -> np.ndarray:
    """[H, W, 3] float32 mean of training pictures, read one at a time.

    Raises:
        DataError: there are none, or their sizes differ.
    """
    total, count = None, 0
    for image in images:
        if total is None:
            total = np.zeros(image.shape, np.float64)
        if image.shape != total.shape:
            raise DataError(
                f"a training picture is {image.shape[1]}x{image.shape[0]}, the first one was "
                f"{total.shape[1]}x{total.shape[0]}"
            )
        total += image
        count += 1
    if total is None:
        raise DataError("there is no training picture to average")
    return (total / count).astype(np.float32)


@dataclass(frozen=True)
class Stance:
    """What the nearest frame is searched by, N pictures."""

    head_to_camera: np.ndarray  # [N, 3, 3] rotation
    expression: np.ndarray  # [N, De] weights or codes


def nearest(training: Stance, query: Stance) -> np.ndarray:
    """Index [M] of the training picture nearest to each query.

    Distance: angle between the head's rotations as seen by the camera, in units of 8 degrees, plus the
    Euclidean distance of the expressions.
    """
    turn = np.einsum("nij,mij->mn", training.head_to_camera, query.head_to_camera)
    angle = np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1)))
    expression = np.stack([np.linalg.norm(training.expression - one, axis=1) for one in query.expression])
    return np.argmin(angle / ROTATION_UNIT_DEG + expression, axis=1)
