"""Where things live: data, models (runs), renders and cache, each with the reason why it is there (design 3).

First match wins: a flag of the command line, `DAVATAR_<NAME>`, the legacy `DIFFUSION_AVATARS_<NAME>_PATH`
from the environment and then from `~/.config/diffusion-avatars/.env`, the `paths` of the user's config
file (`DAVATAR_CONFIG`, else `config.yaml` in the platform's configuration folder), the platform's default.
Nothing is made here; whoever writes makes the folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from davatar.core.errors import ConfigError
from davatar.core.settings import from_mapping, read_yaml

Name = Literal["data", "models", "renders", "cache"]
NAMES: tuple[Name, ...] = get_args(Name)

_flags: dict[str, Path] = {}


@dataclass(frozen=True)
class Places:
    data: Path | None = None  # recordings and data sets
    models: Path | None = None  # runs
    renders: Path | None = None  # videos that belong to no run
    cache: Path | None = None  # what can be made or fetched again


@dataclass(frozen=True)
class UserConfig:
    """The user's config file: what holds for every command on this machine."""

    paths: Places = field(default_factory=Places)


@dataclass(frozen=True)
class Place:
    name: Name
    path: Path
    origin: str  # what decided it


def override(name: Name, path: str | Path | None) -> None:
    """A flag of the command line: it wins over everything until the process ends; None takes it back."""
    if path is None:
        _flags.pop(name, None)
    else:
        _flags[name] = Path(path)


def user_config_file() -> Path:
    if os.environ.get("DAVATAR_CONFIG"):
        return _whole(os.environ["DAVATAR_CONFIG"])
    import platformdirs

    return Path(platformdirs.user_config_dir("davatar", appauthor=False)) / "config.yaml"


def place(name: Name) -> Place:
    """One folder and what decided it.

    Raises:
        ConfigError: the user's config file or the legacy .env file cannot be read.
    """
    if name in _flags:
        return Place(name, _whole(_flags[name]), "command line")
    variable, legacy = f"DAVATAR_{name.upper()}", f"DIFFUSION_AVATARS_{name.upper()}_PATH"
    for key in (variable, legacy):
        if os.environ.get(key):
            return Place(name, _whole(os.environ[key]), key)
    env_file = Path.home() / ".config" / "diffusion-avatars" / ".env"
    if name != "cache" and (value := _read_env(env_file).get(legacy)):
        return Place(name, _whole(value), f"{legacy} in {env_file}")
    config = user_config_file()
    if config.is_file() and (value := getattr(_read_config(config).paths, name)) is not None:
        return Place(name, _whole(value), str(config))
    import platformdirs

    if name == "cache":
        return Place(name, Path(platformdirs.user_cache_dir("davatar", appauthor=False)), "default")
    return Place(name, Path(platformdirs.user_data_dir("davatar", appauthor=False)) / name, "default")


def places() -> list[Place]:
    return [place(name) for name in NAMES]


def data_dir() -> Path:
    return place("data").path


def models_dir() -> Path:
    return place("models").path


def renders_dir() -> Path:
    return place("renders").path


def cache_dir() -> Path:
    return place("cache").path


def _whole(path: str | Path) -> Path:
    return Path(os.path.expandvars(path)).expanduser().absolute()


def _read_config(path: Path) -> UserConfig:
    return from_mapping(UserConfig, read_yaml(path), str(path))


def _read_env(path: Path) -> dict[str, str]:
    """KEY=value lines of a dotenv file: comments, `export` and quotes as shells read them."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=path) from error
    values = {}
    for line in lines:
        key, found, value = line.strip().removeprefix("export ").partition("=")
        value = value.strip()
        if not found or key.startswith("#"):
            continue
        if value[:1] in ("'", '"') and value.rfind(value[0]) > 0:
            value = value[1 : value.rfind(value[0])]
        else:
            value = value.split(" #")[0].strip()
        values[key.strip()] = value
    return values
