"""`manifest.json`: what made a result, so that a folder explains itself (design 3).

Versions, device, seed, inputs with content hashes, the parent run, and one entry per session (a start,
or a resume) with its command line and times.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from davatar import __version__
from davatar.core.content import hash_path
from davatar.core.errors import Interrupted
from davatar.core.files import read_json, write_json

FILE = "manifest.json"


def dependency_versions() -> dict[str, str]:
    """Installed version of each package that davatar requires at run time."""
    try:
        required = [re.split(r"[^\w.-]", line)[0] for line in requires("davatar") or [] if "extra ==" not in line]
    except PackageNotFoundError:  # a checkout on the path that was never installed
        required = ["torch", "numpy", "diffusers"]
    found = {}
    for name in sorted(required):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_inputs(inputs: Mapping[str, str | Path]) -> dict[str, dict[str, str]]:
    """Path and content hash of every input file or folder.

    Raises:
        DataError: an input is missing.
    """
    return {name: {"path": str(Path(path).absolute()), "hash": hash_path(path)} for name, path in inputs.items()}


def write_manifest(
    folder: str | Path,
    inputs: Mapping[str, str | Path] | None = None,
    seed: int | None = None,
    *,
    device: str = "cpu",
    parent: str | None = None,
    command: list[str] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Begin a session in `folder/manifest.json`; an existing manifest keeps its earlier sessions.

    Args:
        inputs: name -> file or folder that the result depends on; its content is hashed.
        parent: the run this one continues or is derived from.
        command: default: the command line of this process.
        facts: anything else worth keeping (JSON values).

    Raises:
        DataError: an input is missing, or the existing manifest is not JSON.
    """
    file = Path(folder) / FILE
    earlier = read_json(file)["sessions"] if file.is_file() else []
    words = sys.argv if command is None else command
    session = {"command": [Path(words[0]).name, *words[1:]], "started": now(), "ended": None, "status": "running"}
    manifest = {
        "davatar": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "dependencies": dependency_versions(),
        "device": device,
        "seed": seed,
        "parent": parent,
        "inputs": describe_inputs(inputs or {}),
        **facts,
        "sessions": [*earlier, session],
    }
    write_json(file, manifest)
    return manifest


def end_manifest(folder: str | Path, status: str = "done", **figures: Any) -> None:
    """Close the running session: "done", "interrupted" or "failed", with figures worth keeping (JSON values)."""
    file = Path(folder) / FILE
    manifest = read_json(file)
    manifest["sessions"][-1] |= {"ended": now(), "status": status, **figures}
    write_json(file, manifest)


@contextmanager
def session(folder: str | Path, *args: Any, **facts: Any) -> Iterator[dict[str, Any]]:
    """`write_manifest` now, `end_manifest` when the block ends: done, interrupted or failed.

    Yields:
        a dict for the figures that the closed session shall carry.
    """
    write_manifest(folder, *args, **facts)
    figures: dict[str, Any] = {}
    status = "failed"
    try:
        yield figures
        status = "done"
    except (Interrupted, KeyboardInterrupt):
        status = "interrupted"
        raise
    finally:
        end_manifest(folder, status, **figures)
