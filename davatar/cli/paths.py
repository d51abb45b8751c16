"""`davatar paths`."""

from __future__ import annotations

from davatar.cli import console
from davatar.core import paths


def command() -> None:
    """Show where data, models, renders and cache live, and what decided it."""
    places = paths.places()
    console.table(["what", "path", "decided by"], [[p.name, p.path, p.origin] for p in places])
    console.result({p.name: {"path": str(p.path), "origin": p.origin, "exists": p.path.is_dir()} for p in places})
