"""The journal of a long job: which items are done, one line each, so that a killed job resumes at the item.

A line is written only after the item's own files are in place. An item counts as done for the same
key and the same content (hash of its input and settings): a changed input is done again. Lines that
a crash cut short are dropped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from davatar.core.files import append_line, read_lines


class Journal:
    """
    Args:
        path: a `.jsonl` file; it need not exist.
        content: hash of everything that all items share (settings, model), see `core.content`.
    """

    def __init__(self, path: str | Path, content: str = ""):
        self.path = Path(path)
        self.content = content
        self._items: dict[tuple[str, str], dict[str, Any]] = {}
        for entry in read_lines(self.path):
            if isinstance(entry, dict) and entry.keys() >= {"key", "content", "figures"}:
                self._items[entry["key"], entry["content"]] = entry["figures"]

    def _content_of(self, content: str) -> str:
        return f"{self.content}/{content}" if content else self.content

    def done(self, key: str, content: str = "") -> bool:
        """Whether the item was finished with this content (`content`: hash of what only this item reads)."""
        return (str(key), self._content_of(content)) in self._items

    def figures(self, key: str, content: str = "") -> dict[str, Any]:
        """What `mark` stored for a finished item."""
        return self._items[str(key), self._content_of(content)]

    def mark(self, key: str, content: str = "", **figures: Any) -> None:
        """The item is finished and its files are in place; `figures` must be JSON values.

        Raises:
            ResourceError: the disk is full; the journal holds every earlier item.
        """
        entry = {"key": str(key), "content": self._content_of(content), "figures": figures}
        append_line(self.path, json.dumps(entry))
        self._items[str(key), entry["content"]] = figures

    def __len__(self) -> int:
        """Items done with the journal's content, whatever their own."""
        prefix = f"{self.content}/"
        return sum(content == self.content or content.startswith(prefix) for _, content in self._items)
