"""Maps <-> the pictures that store them: one codec per channel of a data set (spec diffusion-avatars 1.2).

Ours besides the published five: `coverage` (share of the pixel that the mesh covers), `images` (the photograph on
white) and `alpha`, each 8 bit. Colours in files are RGB; arrays here too.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from davatar.core.errors import DataError
from davatar.dataset import quantisers
from davatar.raster.maps import RasterMaps

PUBLISHED = ("uv", "normals", "depths", "mask", "uv_ambient")
OURS = ("coverage", "images", "alpha")
_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # a third of the time of the default for a few per cent more bytes


def encode_maps(maps: RasterMaps) -> dict[str, np.ndarray]:
    """Codes of the published channels, and of `coverage` where the maps have it.

    Canonical coordinates outside the published box are stored at its border.
    """
    share = np.clip(quantisers.normalise_canonical(maps.canonical), 0, 1).astype(np.float32)
    ambient = np.full((*maps.mask.shape, 2), 0.5, np.float32)
    ambient[..., : share.shape[-1] - 3] = share[..., 3:]
    inside = maps.mask[..., None]
    clip = np.where(maps.mask, quantisers.clip_depth(maps.depth), 0)
    blank = np.zeros((*maps.mask.shape, 1), np.uint8)
    codes = {
        "uv": _foreground(quantisers.UV16, share[..., :3], inside),
        "normals": quantisers.NORMALS.encode(maps.normal),
        "depths": quantisers.DEPTH.encode(clip.astype(np.float32)),
        "mask": maps.mask.astype(np.uint8) * 255,
        "uv_ambient": np.concatenate([_foreground(quantisers.UV8, ambient, inside), blank], axis=-1),
    }
    if maps.coverage is not None:
        codes["coverage"] = encode_share(maps.coverage)
    return codes


def _foreground(quantiser: quantisers.Quantiser, share: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Code 0 exactly where nothing was hit, although a true coordinate may also be the box's corner."""
    codes = quantiser.encode(share)
    return np.where(inside, np.maximum(codes, 1), 0).astype(codes.dtype)


def encode_share(values: np.ndarray) -> np.ndarray:
    """0..1 -> 0..255, rounded: `coverage`, `alpha`, `images`."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def decode(channel: str, codes: np.ndarray) -> np.ndarray:
    """Stored codes -> numbers, float32 (bool for `mask`).

    Returns:
        `uv` [H, W, 3] and `uv_ambient` [H, W, 2]: share of the canonical box, 0 = background; `normals` [H, W, 3]
        world, zeros = background; `depths` [H, W]: clip-space z, 0 = background; `mask` [H, W]; `coverage`,
        `alpha` [H, W] and `images` [H, W, 3]: 0..1.
    """
    if channel == "uv":
        return quantisers.UV16.decode(codes)
    if channel == "uv_ambient":
        return quantisers.UV8.decode(codes[..., :2])
    if channel == "normals":
        return quantisers.NORMALS.decode(codes)
    if channel == "depths":
        return quantisers.DEPTH.decode(codes)
    if channel == "mask":
        return codes > 127
    return codes.astype(np.float32) / 255


def png_bytes(codes: np.ndarray) -> bytes:
    """[H, W] or [H, W, 3] RGB, uint8 or uint16 -> a PNG file; the same array always gives the same bytes."""
    done, data = cv2.imencode(".png", codes[..., ::-1] if codes.ndim == 3 else codes, _FAST)
    if not done:
        raise DataError(f"cannot store an image of shape {codes.shape} and type {codes.dtype}")
    return data.tobytes()


def read_png(path: Path) -> np.ndarray:
    """[H, W] or [H, W, 3] RGB, as stored.

    Raises:
        DataError: missing, truncated or not a picture.
    """
    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except FileNotFoundError as error:
        raise DataError("is missing", file=path, mend="make or fetch the data set again") from error
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size and _whole(data) else None
    if image is None:
        raise DataError("is truncated or not a PNG", file=path, mend="make or fetch the data set again")
    return image[..., ::-1] if image.ndim == 3 else image


def _whole(data: np.ndarray) -> bool:
    """OpenCV fills the rest of a truncated PNG with zeros and says nothing: look for the end chunk."""
    return data[-12:].tobytes()[4:8] == b"IEND"
