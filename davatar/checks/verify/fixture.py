"""Reading fixtures: arrays, their descriptions, what lies beside them, and the device they are recomputed on.

A fixture is an `.npz` whose name starts with the letter of its section; arrays called `config` or `meta` are UTF-8
JSON. Weights lie beside it as `.safetensors`, or are made by a recipe.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from davatar.core.errors import DataError

_DEVICE: ContextVar[str] = ContextVar("device", default="cpu")


def device() -> torch.device:
    """Where checks compute; set by `on_device`."""
    return torch.device(_DEVICE.get())


@contextmanager
def on_device(name: str) -> Iterator[None]:
    """Checks inside compute on `name`, in full float32: the shortened kinds that GPUs offer are switched off."""
    shortened = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    token = _DEVICE.set(name)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        _DEVICE.reset(token)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = shortened


def tensor(array: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
    """An array on the device of the checks; floating point becomes `dtype` where one is given."""
    found = torch.from_numpy(np.ascontiguousarray(array)).to(device())
    return found.to(dtype) if dtype is not None and found.is_floating_point() else found


def array(found: Tensor) -> np.ndarray:
    return found.detach().cpu().numpy()


def array_names(path: Path) -> frozenset[str]:
    """Names of the arrays in an `.npz`; empty for anything else."""
    if path.suffix != ".npz":
        return frozenset()
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return frozenset()


def holds(path: Path, section: str, names: Iterable[str]) -> bool:
    """A fixture of the section with this letter, with all these arrays."""
    return path.name.startswith(f"{section}_") and set(names) <= array_names(path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """
    Raises:
        DataError: the file is truncated, damaged or no `.npz`.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # numpy leaves a torn file open
            return dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise DataError(f"is truncated or damaged: {error}", file=path, mend="copy the fixtures again") from error


def read_json(path: Path) -> Any:
    """
    Raises:
        DataError: the file is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"is not readable JSON: {error}", file=path, mend="copy the fixtures again") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file.

    Raises:
        DataError: the file is truncated or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"is truncated or damaged: {error}", file=path, mend="copy the fixtures again") from error


def described(arrays: Mapping[str, np.ndarray], name: str = "config") -> dict[str, Any]:
    """The JSON document stored as bytes in an array; empty if there is none."""
    return json.loads(bytes(arrays[name])) if name in arrays else {}


def beside(path: Path, section: str, names: Iterable[str], without: Iterable[str] = ()) -> Path | None:
    """The first fixture in the same folder that holds these arrays and none of `without`."""
    names, without = set(names), set(without)
    for other in sorted(path.parent.glob(f"{section}_*.npz")):
        found = array_names(other)
        if names <= found and not without & found:
            return other
    return None
