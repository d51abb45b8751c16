"""The published `rendering_data` layout: file names, config.json, stats.json (spec diffusion-avatars 1.2).

    rendering_data/v<major>.<minor>[-<name>]/config.json, stats.json
        /<PID3>/<SEQ>/cam_<serial>/<channel>/frame_<t:05d>.png

Knows names and JSON, no pixels. Old configurations are brought up to date on reading.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json

SERIALS = tuple(
    "222200042 222200044 222200046 222200040 222200036 222200048 220700191 222200041 "
    "222200037 222200038 222200047 222200043 222200049 222200039 222200045 221501007".split()
)  # in camera-id order
FRONTAL_SERIAL = "222200037"
_VERSION = re.compile(r"v(\d+(?:\.\d+)*)(?:-.*)?")
_SAFE = re.compile(r"[^\w.+-]+")


class SampleKey(NamedTuple):
    participant: int
    sequence: str
    timestep: int
    serial: str


@dataclass(frozen=True)
class Smoothing:
    temporal_smoothing: int = 0
    use_gaussian: bool = False
    param_groups: list[str] = field(default_factory=lambda: ["rotation", "jaw_pose"])


@dataclass(frozen=True)
class MeshConfig:
    flame_tracking: str = "FLAME"
    close_mouth: bool = False
    use_uv_faces: bool = False
    temporal_smoothing_config: Smoothing = Smoothing()
    use_subdivision: bool = False
    nphm_tracking: str = "NPHM"
    include_ambient_dimensions: bool = False
    cut_throat: bool = False
    cut_throat_margin: float = 0


@dataclass(frozen=True)
class DataConfig:
    sequences: list[tuple[int, str]]
    serials: list[str]
    name: str | None = None
    downscale_factor: int = 2
    n_timesteps: int = -1
    use_mipmapping: bool = False
    use_antialiasing: bool = False
    use_ambient_dimensions: bool = False
    use_nphm: bool = False
    mesh_provider_config: MeshConfig = MeshConfig()


@dataclass(frozen=True)
class Stats:
    total_n_timesteps: int
    total_n_frames: int
    available_timesteps: list[list[int]]  # per sequence, in the order of the config
    available_sequences: dict[str, dict[str, list[int]]]  # participant as text -> sequence -> timesteps

    @staticmethod
    def of(timesteps: dict[tuple[int, str], list[int]], views: int) -> Stats:
        """What a writer stores at the end; `timesteps` in the order of the config's sequences."""
        available: dict[str, dict[str, list[int]]] = {}
        for (participant, sequence), steps in timesteps.items():
            available.setdefault(str(participant), {})[sequence] = steps
        total = sum(map(len, timesteps.values()))
        return Stats(total, total * views, list(timesteps.values()), available)


_MOVED = ("use_flame2023", "use_uv_faces", "close_mouth", "temporal_smoothing_config")  # once at top level


def parse_mesh_config(values: dict[str, Any]) -> MeshConfig:
    """Any version of `mesh_provider_config` -> the current one."""
    values = dict(values)
    for old in ("use_flame2023", "use_flame_2023"):
        if old in values:
            del values[old]
            values["flame_tracking"] = "FLAME_2023"  # whatever the flag said: so the published reader does
    if isinstance(values.get("temporal_smoothing_config"), dict):
        values["temporal_smoothing_config"] = Smoothing(**_known(Smoothing, values["temporal_smoothing_config"]))
    return MeshConfig(**_known(MeshConfig, values))


def parse_config(values: dict[str, Any], file: Path | None = None) -> DataConfig:
    """Any version of config.json -> the current one: unknown keys are ignored, missing ones take defaults.

    Raises:
        DataError: `sequences` or `serials` are missing.
    """
    missing = [key for key in ("sequences", "serials") if key not in values]
    if missing:
        raise DataError(f"lacks {' and '.join(missing)}", file=file, mend="fetch or rasterise the data set again")
    moved = {key: values[key] for key in _MOVED if key in values}
    mesh = moved if moved else values.get("mesh_provider_config", {})
    values = _known(DataConfig, values) | {"mesh_provider_config": parse_mesh_config(mesh)}
    values["sequences"] = [(int(participant), str(sequence)) for participant, sequence in values["sequences"]]
    return DataConfig(**values)


def _known(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)}
    return {key: value for key, value in values.items() if key in names}


def read_config(folder: Path) -> DataConfig:
    file = Path(folder) / "config.json"
    return parse_config(_mapping(file), file)


def read_stats(folder: Path) -> Stats:
    """
    Raises:
        DataError: absent (the writer stores it last, so the data set is not complete) or not readable.
    """
    file = Path(folder) / "stats.json"
    if not file.is_file():
        raise DataError("is missing: the data set was not finished", file=file, mend="run its command again")
    values = _mapping(file)
    try:
        return Stats(**_known(Stats, values))
    except TypeError as error:
        raise DataError(f"is incomplete: {error}", file=file, mend="make the data set again") from error


def _mapping(file: Path) -> dict[str, Any]:
    values = read_json(file)
    if not isinstance(values, dict):
        raise DataError("holds no JSON object", file=file, mend="fetch or rasterise the data set again")
    return values


def version_of(folder_name: str) -> str | None:
    """`v1.3-ID-55-nphm` -> `1.3`; None for another name."""
    found = _VERSION.fullmatch(folder_name)
    return found[1] if found else None


def versions(root: Path) -> list[Path]:
    """The data sets in a `rendering_data` folder, by version number."""
    folders = [p for p in Path(root).iterdir() if p.is_dir() and version_of(p.name)] if Path(root).is_dir() else []
    return sorted(folders, key=lambda p: (_numbers(p.name), p.name))


def _numbers(folder_name: str) -> list[int]:
    return [int(part) for part in (version_of(folder_name) or "0").split(".")]


def resolve_version(text: str, root: Path) -> Path:
    """A path, a folder name, or a version (`v1.3`, `1.3`) -> the data set's folder.

    Raises:
        MissingError: nothing there, or several folders bear the version; the candidates are named.
    """
    if (Path(text) / "config.json").is_file():
        return Path(text)
    folders = versions(root)
    named = [p for p in folders if p.name == text]
    wanted = text.removeprefix("v")
    found = named or [p for p in folders if version_of(p.name) == wanted]
    if len(found) == 1:
        return found[0]
    names = ", ".join(p.name for p in (found or folders)) or "none"
    problem = f"several data sets are version {text}" if found else f"no data set is called {text!r}"
    raise MissingError(f"{problem}; there: {names}", file=root, mend="davatar data list, or davatar data fetch")


def claim_version(root: Path, name: str | None) -> Path:
    """Make the next version's folder (two levels, first 0.1, then the largest with its last level + 1).

    The folder is claimed by an atomic mkdir, so that two starts at once get two numbers.
    """
    suffix = f"-{safe_name(name)}" if name else ""
    Path(root).mkdir(parents=True, exist_ok=True)
    number = max((_numbers(p.name) for p in versions(root) if len(_numbers(p.name)) == 2), default=[0, 0])
    while True:
        number = [number[0], number[1] + 1]
        if any(_numbers(p.name) == number for p in versions(root)):
            continue
        folder = Path(root) / f"v{number[0]}.{number[1]}{suffix}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def summary(folder: Path) -> dict[str, Any]:
    """One line of a list; a data set that is damaged or unfinished says so under `state`."""
    row: dict[str, Any] = {"name": folder.name, "participants": None, "sequences": None, "cameras": None}
    row |= {"pictures": None, "state": "whole", "folder": str(folder)}
    try:
        config = read_config(folder)
        row["participants"] = " ".join(str(pid) for pid in dict.fromkeys(pid for pid, _ in config.sequences))
        row["sequences"], row["cameras"] = len(config.sequences), len(config.serials)
        row["pictures"] = read_stats(folder).total_n_frames
    except DataError as error:
        row["state"] = error.message
    return row


def safe_name(text: str) -> str:
    """A name that is one path component on every system."""
    return _SAFE.sub("-", text).strip("-.") or "unnamed"


def sequence_folder(folder: Path, participant: int, sequence: str) -> Path:
    return Path(folder) / f"{participant:03d}" / sequence


def channel_path(folder: Path, key: SampleKey, channel: str) -> Path:
    home = sequence_folder(folder, key.participant, key.sequence)
    return home / f"cam_{key.serial}" / channel / f"frame_{key.timestep:05d}.png"
