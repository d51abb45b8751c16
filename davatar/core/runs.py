"""Run folders: `<models>/DA-<n>-<label>/`, each one training that explains itself (design 3).

A number is claimed by making the folder, which the file system does for one process only. Published
archives (`DA-1-ID-18`, found by their `model_config.json`) are read in place and never written into.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from davatar.core import paths
from davatar.core.errors import MissingError, UsageError
from davatar.core.files import append_line, atomic_folder, disk_errors, read_json, read_lines, write_text
from davatar.core.manifest import FILE as MANIFEST
from davatar.core.settings import Resolved, read_yaml, to_yaml

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
PUBLISHED = "diffusion-avatars"  # sub-folder of the legacy models folder

_NAME = re.compile(r"(?P<prefix>[A-Za-z]+)-(?P<number>\d+)(?:-(?P<label>.+))?")
_LABEL = re.compile(r"[\w][\w.+-]*")
_STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Run:
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def short_name(self) -> str:
        """DA-3 of DA-3-anna; the whole name where it is no numbered one."""
        found = _NAME.fullmatch(self.name)
        return f"{found['prefix']}-{found['number']}" if found else self.name

    @property
    def label(self) -> str:
        """anna of DA-3-anna; empty if there is none."""
        found = _NAME.fullmatch(self.name)
        return (found and found["label"]) or ""

    @property
    def published(self) -> bool:
        """Whether this is an archive of the original authors, in their layout."""
        return (self.folder / "model_config.json").is_file()

    @property
    def config(self) -> dict[str, Any]:
        """Resolved settings, nested.

        Raises:
            ConfigError: there is no config.yaml, or it is no YAML.
        """
        return read_yaml(self.folder / CONFIG)

    @property
    def manifest(self) -> dict[str, Any]:
        """
        Raises:
            DataError: there is none, or it is not JSON.
        """
        return read_json(self.folder / MANIFEST)

    def write_config(self, resolved: Resolved[Any]) -> None:
        self._check_writable()
        write_text(self.folder / CONFIG, to_yaml(resolved))

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """A folder to fill; when the block ends without error it is `checkpoints/step-000100` and the latest one.

        Raises:
            ResourceError: the disk is full; earlier checkpoints are as they were.
        """
        self._check_writable()
        folder = self.folder / "checkpoints" / f"step-{step:06d}"
        with atomic_folder(folder) as temporary:
            yield temporary
        write_text(folder.parent / "latest", folder.name + "\n")

    def checkpoints(self) -> dict[int, Path]:
        """step -> folder of every whole checkpoint, in order."""
        found = {}
        for folder in (self.folder / "checkpoints").glob("step-*"):
            if (step := _STEP.fullmatch(folder.name)) and folder.is_dir():
                found[int(step[1])] = folder
        return dict(sorted(found.items()))

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """Step and folder that `latest` names; the highest step where that file is lost; None before the first."""
        known = self.checkpoints()
        pointer = self.folder / "checkpoints" / "latest"
        if pointer.is_file() and (step := _STEP.fullmatch(pointer.read_text().strip())) and int(step[1]) in known:
            return int(step[1]), known[int(step[1])]
        return max(known.items()) if known else None

    def log(self, step: int, **figures: float) -> None:
        """Add a line to metrics.jsonl."""
        self._check_writable()
        append_line(self.folder / METRICS, json.dumps({"step": step, **figures}))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [line for line in read_lines(self.folder / METRICS) if isinstance(line, dict) and "step" in line]

    def rewind(self, step: int) -> None:
        """Drop the metrics after `step`: a resumed training writes them again."""
        self._check_writable()
        kept = [json.dumps(line) for line in self.metrics() if line["step"] <= step]
        write_text(self.folder / METRICS, "".join(line + "\n" for line in kept))

    def _check_writable(self) -> None:
        if self.published:
            raise UsageError("is a published archive and is never written into", file=self.folder)


def _folders(models_dir: Path) -> list[Path]:
    """Run folders of the models folder and of the published layout inside it, by name and number."""
    found = [
        folder
        for place in (models_dir, models_dir / PUBLISHED)
        if place.is_dir()
        for folder in place.iterdir()
        if folder.is_dir() and _NAME.fullmatch(folder.name)
    ]

    def order(folder: Path) -> tuple[str, int, str]:
        name = _NAME.fullmatch(folder.name)
        return name["prefix"], int(name["number"]), folder.name

    return sorted(found, key=order)


def list_runs(models_dir: str | Path | None = None, prefix: str | None = None) -> list[Run]:
    """Runs by prefix and number; empty if the models folder does not exist."""
    root = paths.models_dir() if models_dir is None else Path(models_dir)
    return [Run(folder) for folder in _folders(root) if prefix in (None, _NAME.fullmatch(folder.name)["prefix"])]


def create_run(models_dir: str | Path | None = None, name: str | None = None, prefix: str = "DA") -> Run:
    """Claim the next number and make its folder; safe when several processes do so at once.

    Args:
        name: label behind the number; letters, digits, `.`, `_`, `+` and `-`.

    Raises:
        UsageError: the label has other characters.
    """
    root = paths.models_dir() if models_dir is None else Path(models_dir)
    if name is not None and not _LABEL.fullmatch(name):
        raise UsageError(f"{name!r} cannot be part of a folder name", mend="use letters, digits, '.', '_', '+', '-'")
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        while True:
            used = [int(_NAME.fullmatch(run.name)["number"]) for run in list_runs(root, prefix)]
            claim = root / f"{prefix}-{max(used, default=0) + 1}"
            try:
                claim.mkdir()
            except FileExistsError:
                continue
            # Another process may have claimed, and then renamed, the same number since it was listed.
            if any(run.folder != claim and run.short_name == claim.name for run in list_runs(root, prefix)):
                claim.rmdir()
                continue
            folder = claim if name is None else root / f"{claim.name}-{name}"
            os.rename(claim, folder)
            return Run(folder)


def resolve_run(text: str | Path, models_dir: str | Path | None = None) -> Run:
    """The run meant by a path, a name (DA-3-anna), its short form (DA-3), a label (anna) or a participant (18, 018).

    Raises:
        MissingError: there is none; names the nearest one.
        UsageError: several fit; lists them.
    """
    path = Path(text)
    if path.is_dir() and any((path / file).is_file() for file in (CONFIG, MANIFEST, "model_config.json")):
        return Run(path)
    runs = list_runs(models_dir)
    word = str(text)
    participant = re.compile(f"ID-0*{int(word)}(-.*)?") if word.isdigit() else None
    for fits in (
        lambda run: run.name == word,
        lambda run: run.short_name == word,
        lambda run: run.label == word,
        lambda run: participant is not None and participant.fullmatch(run.label),
    ):
        found = [run for run in runs if fits(run)]
        if len(found) > 1:
            candidates = ", ".join(str(run.folder) for run in found)
            raise UsageError(f"{word!r} could be any of {candidates}", mend="give the whole name or the path")
        if found:
            return found[0]
    near = difflib.get_close_matches(word, [name for run in runs for name in (run.name, run.short_name)], n=1)
    root = paths.models_dir() if models_dir is None else Path(models_dir)
    hint = f"did you mean {near[0]!r}?" if near else "`davatar runs list` shows what there is"
    raise MissingError(f"no run is called {word!r} in {root}", mend=hint)
