"""Image files of recordings, read with suspicion: size, bit depth and completeness are checked, the file is named.

Depth PNGs are 16-bit, 0 = no measurement; colours are 8-bit sRGB. Arrays in memory, no frames here.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from davatar.core.errors import DataError
from davatar.core.files import write_bytes

COLOR_SUFFIXES = (".png", ".jpg", ".jpeg")
_ENDS = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}


def read_depth(path: Path, depth_scale: float, size: tuple[int, int]) -> np.ndarray:
    """16-bit depth image -> metres.

    Args:
        depth_scale: units per metre.
        size: (width, height) that the intrinsics are for.

    Returns:
        [H, W] float32 m along the camera's z, NaN = no measurement.

    Raises:
        DataError: absent, truncated, not 16-bit single-channel, or of another size.
    """
    image = _decode(path, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint16 or image.ndim != 2:
        found = f"{8 * image.dtype.itemsize}-bit with {1 if image.ndim == 2 else image.shape[2]}"
        raise DataError(f"is {found} channel(s), expected 16-bit with 1", file=path, mend="export depth as 16-bit PNG")
    _check_size(path, image, size)
    return np.where(image > 0, image / np.float32(depth_scale), np.float32(np.nan))


def read_color(path: Path, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8 sRGB; errors as for `read_depth`."""
    image = _decode(path, cv2.IMREAD_COLOR)
    _check_size(path, image, size)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_alpha(path: Path, size: tuple[int, int]) -> np.ndarray:
    """[H, W] float32 0..1; errors as for `read_depth`."""
    image = _decode(path, cv2.IMREAD_GRAYSCALE)
    _check_size(path, image, size)
    return image.astype(np.float32) / 255


def write_png(path: Path, image: np.ndarray) -> None:
    """[H, W] uint8 or uint16, or [H, W, 3] uint8 RGB; atomic.

    Raises:
        ResourceError: the disk is full.
    """
    ok, data = cv2.imencode(".png", image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise DataError(f"an image of shape {image.shape} and type {image.dtype} cannot be a PNG", file=path)
    write_bytes(path, data.tobytes())


def list_images(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """stem -> path, sorted by stem; hidden files are left out; an absent folder is empty."""
    if not folder.is_dir():
        return {}
    found = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    return {p.stem: p for p in sorted(found)}


def _decode(path: Path, flags: int) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path, mend="copy the file again") from error
    if _ENDS.get(path.suffix.lower(), b"") not in data[-64:]:  # decoders fill the missing rest with grey
        raise DataError(f"is truncated ({len(data)} bytes)", file=path, mend="copy the file again")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise DataError("is not a readable image", file=path, mend="copy or export the file again")
    return image


def _check_size(path: Path, image: np.ndarray, size: tuple[int, int]) -> None:
    height, width = image.shape[:2]
    if (width, height) != tuple(size):
        raise DataError(
            f"is {width}x{height}, the intrinsics say {size[0]}x{size[1]}", file=path, mend="re-export one of them"
        )
