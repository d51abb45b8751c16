"""What can be fetched: the eight published participants (spec diffusion-avatars 0.4) and the user's own entries.

The user's file is `catalogue.yaml` beside the config file:

    root: https://mirror.example/diffusion_avatars/    # replaces the published root
    archives:
      - {participant: anna, what: rendering, path: data/anna.zip, folder: v2.1-anna, sha256: ..., size: ...}

`path` is relative to the root, or a whole URL. Nothing is downloaded here.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from davatar.core.errors import ConfigError, UsageError
from davatar.core.paths import data_dir, models_dir, user_config_file
from davatar.core.settings import read_yaml

ROOT = "https://kaldir.vc.in.tum.de/diffusion_avatars/"
TERMS = "using NeRSemble data and models requires accepting the NeRSemble terms of use"
What = Literal["model", "nersemble", "rendering"]
WHAT: tuple[What, ...] = get_args(What)
PARTICIPANTS = (18, 37, 55, 124, 145, 210, 251, 264)  # number n has model DA-<n> and data set v1.<n>


@dataclass(frozen=True)
class Archive:
    participant: str
    what: What
    path: str  # relative to the root, or a whole URL
    folder: str  # name that its content gets below the home of its kind
    size: int | None = None  # bytes
    sha256: str | None = None

    @property
    def home(self) -> Path:
        """The folder in which `folder` appears."""
        if self.what == "model":
            return models_dir() / "diffusion-avatars"
        return data_dir() / ("nersemble" if self.what == "nersemble" else "rendering_data")

    @property
    def target(self) -> Path:
        return self.home / self.folder

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.path.split("?")[0]).name

    def url(self, root: str) -> str:
        return self.path if "://" in self.path else root.rstrip("/") + "/" + self.path.lstrip("/")


@dataclass(frozen=True)
class Catalogue:
    root: str
    archives: tuple[Archive, ...]

    @property
    def participants(self) -> list[str]:
        return list(dict.fromkeys(archive.participant for archive in self.archives))

    def select(self, participants: Sequence[str], what: Sequence[str]) -> list[Archive]:
        """Archives of the named participants (`18` and `018` are one) and kinds.

        Raises:
            UsageError: an unknown participant or kind, or an entry that has no such archive.
        """
        unknown = [kind for kind in what if kind not in WHAT]
        if unknown:
            raise UsageError(f"nothing is called {unknown[0]!r}", mend=f"choose {', '.join(WHAT)} or all")
        chosen = []
        for text in participants:
            name = str(int(text)) if text.isdigit() else text
            if name not in self.participants:
                near = difflib.get_close_matches(name, self.participants, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.participants)}"
                raise UsageError(f"the catalogue has no participant {text!r}", mend=hint)
            found = [a for a in self.archives if a.participant == name and a.what in what]
            if not found:
                raise UsageError(f"the catalogue has no {' or '.join(what)} of {name}", mend="choose another --what")
            chosen += found
        return list(dict.fromkeys(chosen))


def published() -> tuple[Archive, ...]:
    archives: list[Archive] = []
    for number, pid in enumerate(PARTICIPANTS, start=1):
        model, data_set = f"DA-{number}-ID-{pid}", f"v1.{number}-ID-{pid}-nphm"
        archives += [
            Archive(str(pid), "model", f"models/{model}.zip", model),
            Archive(str(pid), "nersemble", f"data/nersemble/{pid:03d}.zip", f"{pid:03d}"),
            Archive(str(pid), "rendering", f"data/rendering_data/{data_set}.zip", data_set),
        ]
    return tuple(archives)


def catalogue_file() -> Path:
    return user_config_file().parent / "catalogue.yaml"


def load_catalogue(file: Path | None = None) -> Catalogue:
    """The published entries, then the user's; an own entry replaces the published one of its participant and kind.

    Raises:
        ConfigError: the user's file has an unknown or missing key, or an unsafe folder name.
    """
    file = file or catalogue_file()
    values = read_yaml(file) if file.is_file() else {}
    for key in values:
        if key not in ("root", "archives"):
            raise ConfigError(f"has an unknown key {key!r}", file=file, mend="use root and archives")
    own = [_archive(entry, file) for entry in values.get("archives") or []]
    replaced = {(a.participant, a.what) for a in own}
    kept = [a for a in published() if (a.participant, a.what) not in replaced]
    return Catalogue(str(values.get("root", ROOT)), (*kept, *own))


def _archive(entry: Any, file: Path) -> Archive:
    required, allowed = {"participant", "what", "path", "folder"}, set(Archive.__dataclass_fields__)
    if not isinstance(entry, dict) or not required <= entry.keys() <= allowed:
        raise ConfigError(f"entry {entry!r} needs {sorted(required)} and may have size, sha256", file=file)
    texts = {key: str(entry[key]) for key in required} | {"sha256": entry.get("sha256"), "size": entry.get("size")}
    if texts["what"] not in WHAT:
        raise ConfigError(f"what is {texts['what']!r}, expected {', '.join(WHAT)}", file=file)
    folder = texts["folder"]
    if folder != Path(folder).name or folder in ("", ".", "..") or folder.startswith("."):
        raise ConfigError(f"folder {folder!r} must be a plain name", file=file)
    return Archive(**texts)
