"""Camera files of recordings -> `Camera`, with every number checked and the file named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from davatar.core.errors import DataError
from davatar.core.files import read_json
from davatar.geometry.camera import Camera

_PINHOLE = "it needs width, height, fx, fy, cx, cy in pixels"


def number(values: Mapping[str, Any], key: str, file: Path, mend: str) -> float:
    """A finite number out of a JSON object.

    Raises:
        DataError: absent, not a number, or not finite.
    """
    if key not in values:
        raise DataError(f"lacks {key!r}", file=file, mend=mend)
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{key} is {value!r}, expected a finite number", file=file, mend=mend)
    return float(value)


def read_object(file: Path, mend: str) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        DataError: absent, not JSON, or something else than an object.
    """
    if not file.is_file():
        raise DataError("is missing", file=file, mend=mend)
    values = read_json(file, mend=f"correct it there; {mend}" if mend else None)
    if not isinstance(values, dict):
        raise DataError(f"holds {type(values).__name__}, expected an object", file=file, mend=mend)
    return values


def read_intrinsics(file: Path) -> Camera:
    """`intrinsics.json` of a plain RGB-D folder (design 5); the camera stands in the world's origin.

    Raises:
        DataError: absent, incomplete, non-finite, or not a possible camera.
    """
    values = read_object(file, mend=_PINHOLE)
    fx, fy, cx, cy = (number(values, key, file, _PINHOLE) for key in ("fx", "fy", "cx", "cy"))
    width, height = (number(values, key, file, _PINHOLE) for key in ("width", "height"))
    return _checked(file, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.eye(4), width, height)


def read_view_camera(file: Path) -> Camera:
    """`camera.json` of a further view: K [3, 3], world_to_camera [4, 4], width, height.

    Raises:
        DataError: as for `read_intrinsics`.
    """
    mend = "it needs K [3, 3], world_to_camera [4, 4], width, height"
    values = read_object(file, mend)
    matrices = []
    for key, shape in (("K", (3, 3)), ("world_to_camera", (4, 4))):
        try:
            matrix = np.asarray(values[key], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{key!r} is absent or not a matrix", file=file, mend=mend) from error
        if matrix.shape != shape:
            raise DataError(f"{key} has shape {list(matrix.shape)}, expected {list(shape)}", file=file, mend=mend)
        matrices.append(matrix)
    width, height = (number(values, key, file, mend) for key in ("width", "height"))
    return _checked(file, matrices[0], matrices[1], width, height)


def camera_json(camera: Camera) -> dict[str, Any]:
    """What `read_view_camera` reads."""
    return {
        "K": camera.K.tolist(),
        "world_to_camera": camera.world_to_camera.tolist(),
        "width": camera.width,
        "height": camera.height,
    }


def _checked(file: Path, K: np.ndarray, world_to_camera: np.ndarray, width: float, height: float) -> Camera:
    if width != int(width) or height != int(height):
        raise DataError(f"the size {width:g}x{height:g} is not in whole pixels", file=file, mend=_PINHOLE)
    rotation = world_to_camera[:3, :3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) or np.linalg.det(rotation) < 0:
        raise DataError("world_to_camera is not rigid", file=file, mend="store a rotation and a translation in metres")
    try:
        return Camera(K, world_to_camera, int(width), int(height))
    except DataError as error:
        raise DataError(error.message, file=file, mend=_PINHOLE) from error
