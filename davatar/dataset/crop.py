"""The published crop square, and crop + resize of images and maps (spec diffusion-avatars 3.1, 3.2).

Pixels of the stored (half-resolution) images; a crop is (x, y, width, height). Arrays in, arrays out.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import cv2
import numpy as np

from davatar.core.errors import DataError


class Crop(NamedTuple):
    x: int
    y: int
    width: int
    height: int


def choose_crop(
    width: float,
    height: float,
    box: np.ndarray,
    rng: random.Random,
    *,
    smallest: float = 0.7,
    aspect: float = 1.2,
) -> Crop:
    """A random square around the face; with `smallest` = `aspect` = 1 it is the fixed square of evaluation.

    Args:
        width, height: size of the stored image, px; may be fractional (raw size / 2).
        box: [4 or 5] face box x, y, w, h relative to the image (0..1).
        rng: drawn from three times: side, x, y.
        smallest: least side, as a share of the width.
        aspect: how far, above and below, the square may leave the centred one.

    Raises:
        DataError: the image is too low for the square.
    """
    center = int(height * (box[1] + box[3] / 2))
    top, bottom = int(center - width / 2 + 0.5), int(center + width / 2 + 0.5)
    extra = int((aspect - 1) * width / 2)
    top, bottom = top - extra, bottom + extra
    if top < 0:
        top, bottom = 0, bottom - top
    elif bottom >= height:
        top, bottom = int(top + height - bottom), int(height)
    if not 0 <= top <= bottom <= height:
        raise DataError(f"a {width:g}x{height:g} image has no room for a square crop", mend="use upright images")
    side = rng.randint(int(smallest * width), int(width))
    return Crop(rng.randint(0, int(width) - side), rng.randint(top, bottom - side), side, side)


def crop_and_resize(image: np.ndarray, crop: Crop | None, size: int | None, *, smooth: bool = True) -> np.ndarray:
    """[H, W] or [H, W, C] -> the crop at size x size; masks (bool) are always taken from the nearest pixel."""
    if crop is not None:
        image = image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    if size is None or image.shape[:2] == (size, size):
        return image
    is_mask = image.dtype == bool
    method = cv2.INTER_NEAREST_EXACT if is_mask or not smooth else cv2.INTER_LINEAR_EXACT
    resized = cv2.resize(image.astype(np.uint8) if is_mask else image, (size, size), interpolation=method)
    return resized.astype(bool) if is_mask else resized
