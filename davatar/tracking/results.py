"""Per-item results of a long fit, saved atomically, so that a killed run resumes at the item.

Every file carries the fingerprint of what it was computed from; one that does not fit, or is damaged, counts
as absent. Numbers are kept in full precision: a resumed run ends bit for bit where an uninterrupted one does.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np

from davatar.core.files import atomic_path


class Results:
    """
    Args:
        folder: where the items lie; None keeps them in memory only.
        content: fingerprint of everything that all items depend on.
    """

    def __init__(self, folder: Path | None, content: str = ""):
        self.folder = folder
        self.content = content
        self._memory: dict[str, dict[str, np.ndarray]] = {}

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of a finished item, or None."""
        if self.folder is None:
            return self._memory.get(key)
        try:
            with open(self.folder / f"{key}.npz", "rb") as file, np.load(file) as archive:
                if str(archive["content"]) != self.content:
                    return None
                return {name: archive[name] for name in archive.files if name != "content"}
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def put(self, key: str, **arrays: np.ndarray) -> None:
        if self.folder is None:
            self._memory[key] = {name: np.asarray(value) for name, value in arrays.items()}
            return
        with atomic_path(self.folder / f"{key}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, content=np.array(self.content), **arrays)

    def clear(self) -> None:
        """Forget all items (the final files are written)."""
        self._memory.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
