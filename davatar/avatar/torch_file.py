"""torch archives of other people, read as weights only: stored code never runs."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)


def read_torch(file: Path) -> Any:
    """What an archive holds, on the CPU, mapped from the file where its format allows.

    Raises:
        pickle.UnpicklingError: it holds more than tensors and plain values, or is no archive.
        one of UNREADABLE: truncated or damaged; `trouble` says it in one line.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # refused or read all the same
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))


def trouble(file: Path, error: Exception) -> str:
    """Why an archive could not be read, in one line, without torch's advice."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is no torch archive, or holds more than tensors and plain values"
    with open(file, "rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:
        return "it is cut short or damaged"
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(" This is an internal miniz error")[0]
