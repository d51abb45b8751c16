"""torch archives of other people, read as weights only: stored code never runs."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch


def read_torch(file: Path) -> Any:
    """What an archive holds, on the CPU, mapped from the file where its format allows.

    Raises:
        pickle.UnpicklingError: it holds more than tensors and plain values, or is no archive.
        one of `torch_errors.UNREADABLE`: truncated or damaged; `torch_errors.unreadable` says it in one line.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # refused or read all the same
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
