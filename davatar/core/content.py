"""Content hashes: what tells that an input, a setting or a result is the same one as before.

SHA-256, shown as its first 16 hexadecimal digits. A folder's hash covers the relative names and the
bytes of its files, so a renamed frame counts as a change and a touched one does not.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from davatar.core.errors import DataError

DIGITS = 16


def hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def hash_value(value: Any) -> str:
    """Of anything JSON can hold (settings, keys); the order of a mapping's keys does not matter."""
    return hash_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())


def hash_path(path: str | Path, pattern: str = "**/*") -> str:
    """Of a file, or of the files of a folder that match `pattern`; hidden files do not count.

    Raises:
        DataError: nothing is there.
    """
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
    if not path.is_dir():
        raise DataError("is missing", file=path)
    total = hashlib.sha256()
    for file in sorted(path.glob(pattern)):
        name = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            total.update(f"{name.as_posix()}\0{hash_path(file)}\n".encode())
    return total.hexdigest()[:DIGITS]
