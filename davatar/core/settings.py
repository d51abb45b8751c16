"""Layered settings: defaults <- preset <- file <- environment <- --set <- flags (design 7).

A component's settings are one frozen dataclass, nested where its parts have names; the dataclass is
the schema. Keys are dotted (`network.channels`); in the environment they are upper case with two
underscores for the dot (`DAVATAR_AVATAR_NETWORK__CHANNELS`). Every key that no field has is an error
with the nearest name, from whichever layer it comes. The origin of each value is kept beside it.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

from davatar.core.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Resolved(Generic[T]):
    value: T
    origins: dict[str, str]  # dotted key -> "default", "preset tiny", a file, an environment variable, "--set", a flag


def fields_of(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type of every leaf field of a settings dataclass."""
    hints = typing.get_type_hints(cls)
    leaves: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            leaves |= fields_of(kind, f"{prefix}{field.name}.")
        else:
            leaves[prefix + field.name] = kind
    return leaves


def component_of(cls: type) -> str:
    """The domain folder the dataclass lives in: davatar.avatar.settings -> avatar."""
    parts = cls.__module__.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def presets(component: str) -> list[str]:
    """Names of the presets that ship for a component."""
    folder = files("davatar.assets") / "presets" / component
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml")) if folder.is_dir() else []


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping; an empty file is an empty one.

    Raises:
        ConfigError: absent, not YAML or no mapping.
    """
    import yaml

    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"is not readable YAML: {' '.join(str(error).split())}", file=path) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"holds a {type(value).__name__}, expected a mapping of settings", file=path)
    return value


def resolve(
    cls: type[T],
    preset: str | None = None,
    config_file: str | Path | None = None,
    env_prefix: str | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    component: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Resolved[T]:
    """Merge all layers into one validated instance.

    Args:
        cls: a frozen dataclass whose fields all have defaults.
        preset: name of a file in davatar/assets/presets/<component>/.
        config_file: a YAML file of the user, nested like the dataclass.
        env_prefix: default DAVATAR_<COMPONENT>_; every variable with it must name a field.
        sets: "a.b=1" items of `--set`; values are read as YAML.
        flags: dotted key -> value of command-line options; None means the option was not given.
        component: default: the domain folder of `cls`.

    Raises:
        ConfigError: unknown preset, file or key, or a value of the wrong type; says which layer it is from.
    """
    component = component or component_of(cls)
    prefix = f"DAVATAR_{component.upper()}_" if env_prefix is None else env_prefix
    layers = [
        _preset_layer(cls, component, preset),
        _file_layer(cls, config_file),
        _environment_layer(cls, prefix, os.environ if environ is None else environ),
        _set_layer(cls, sets),
        _flag_layer(flags or {}),
    ]
    chosen: dict[str, tuple[Any, str]] = {}
    for layer in layers:
        for key, (_, origin) in layer.items():
            _check_key(cls, key, origin)
        chosen |= layer
    value = _build(cls, chosen)
    return Resolved(value, {key: chosen[key][1] if key in chosen else "default" for key in fields_of(cls)})


def from_mapping(cls: type[T], values: Mapping[str, Any], origin: str) -> T:
    """A dataclass from a nested mapping, with the same checks; for files that hold settings and nothing else."""
    layer = {key: (value, origin) for key, value in _flat(cls, values, origin).items()}
    for key in layer:
        _check_key(cls, key, origin)
    return _build(cls, layer)


def to_mapping(value: Any) -> dict[str, Any]:
    """Nested plain values (what YAML and JSON hold) of a settings dataclass."""

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item):
            return {field.name: plain(getattr(item, field.name)) for field in dataclasses.fields(item)}
        if isinstance(item, Mapping):
            return {str(key): plain(entry) for key, entry in item.items()}
        if isinstance(item, tuple | list):
            return [plain(entry) for entry in item]
        return str(item) if isinstance(item, Path) else item

    return plain(value)


def to_yaml(resolved: Resolved[Any]) -> str:
    """The text of a run's `config.yaml`: every setting with its origin as a comment; `config_file` reads it back."""
    lines = []

    def write(values: dict[str, Any], path: str, indent: str) -> None:
        for name, value in values.items():
            if f"{path}{name}" not in resolved.origins and isinstance(value, dict):
                lines.append(f"{indent}{name}:")
                write(value, f"{path}{name}.", indent + "  ")
                continue
            lines.append(f"{indent}{name}: {_inline(value)}  # {resolved.origins[path + name]}")

    write(to_mapping(resolved.value), "", "")
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    import yaml

    if isinstance(value, str) and not value.isprintable():
        return yaml.safe_dump(value, default_style='"', width=2**20).strip()  # line breaks and the like are escaped
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=2**20, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _preset_layer(cls: type, component: str, preset: str | None) -> dict[str, tuple[Any, str]]:
    if preset is None:
        return {}
    known = presets(component)
    if preset not in known:
        raise ConfigError(f"{component} has no preset {preset!r}", mend=_hint(preset, known))
    origin = f"preset {preset}"
    values = read_yaml(files("davatar.assets") / "presets" / component / f"{preset}.yaml")
    return {key: (value, origin) for key, value in _flat(cls, values, origin).items()}


def _file_layer(cls: type, path: str | Path | None) -> dict[str, tuple[Any, str]]:
    if path is None:
        return {}
    return {key: (value, str(path)) for key, value in _flat(cls, read_yaml(path), str(path)).items()}


def _environment_layer(cls: type, prefix: str, environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    return {
        name[len(prefix) :].lower().replace("__", "."): (_Text(value), name)
        for name, value in environ.items()
        if prefix and name.startswith(prefix)
    }


def _set_layer(cls: type, sets: Sequence[str]) -> dict[str, tuple[Any, str]]:
    layer = {}
    for item in sets:
        key, found, value = item.partition("=")
        if not found:
            raise ConfigError(f"--set {item} has no '='", mend="write --set key=value")
        layer[key.strip()] = (_Text(value), "--set")
    return layer


def _flag_layer(flags: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """An option is called after the last part of its key: budget.steps is --steps."""
    options = {key: "--" + key.split(".")[-1].replace("_", "-") for key in flags}
    return {key: (value, options[key]) for key, value in flags.items() if value is not None}


class _Text(str):
    """A value typed by the user: read as YAML, or kept as it stands where the field wants text."""


def _flat(cls: type, values: Mapping[str, Any], origin: str, prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys, going down only where the dataclass does."""
    hints = typing.get_type_hints(cls)
    flat = {}
    for name, value in values.items():
        kind = hints.get(str(name))
        if not dataclasses.is_dataclass(kind):
            flat[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            flat |= _flat(kind, value, origin, f"{prefix}{name}.")
        else:
            raise ConfigError(f"{prefix}{name} is {value!r}, expected a mapping (from {origin})")
    return flat


def _check_key(cls: type, key: str, origin: str) -> None:
    known = fields_of(cls)
    if key not in known:
        inside = [name for name in known if name.startswith(f"{key}.")]
        raise ConfigError(
            f"no setting is called {key!r} (from {origin})",
            mend=f"set its parts: {', '.join(inside)}" if inside else _hint(key, list(known)),
        )


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not near:  # the last part may be right and the path to it forgotten
        near = [name for name in known if name.split(".")[-1] == word.split(".")[-1]][:1]
    if near:
        return f"did you mean {near[0]!r}?"
    groups = dict.fromkeys(f"{group}.…" if parts else group for group, _, parts in (n.partition(".") for n in known))
    return f"there are {', '.join(groups) or 'none'}"


def _build(cls: type[T], chosen: Mapping[str, tuple[Any, str]]) -> T:
    kinds = fields_of(cls)
    nested: dict[str, Any] = {}
    for key, (value, origin) in chosen.items():
        *path, last = key.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = _checked(kinds[key], value, key, origin)
    return _construct(cls(), nested)


def _construct(base: T, nested: Mapping[str, Any]) -> T:
    parts = {
        name: _construct(getattr(base, name), value) if dataclasses.is_dataclass(getattr(base, name)) else value
        for name, value in nested.items()
    }
    cls = type(base)
    try:
        # What a class derives from its own values must be derived from the given ones, not from the defaults.
        return cls(**parts) if base == cls() else dataclasses.replace(base, **parts)
    except ValueError as error:  # what a settings class says about its own values
        raise ConfigError(str(error)) from error


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _checked(kind: Any, value: Any, key: str, origin: str) -> Any:
    """The value as the field's type, by pydantic's conversions; what was typed as text is tried as YAML first."""
    import yaml
    from pydantic import ValidationError

    attempts = [value]
    if isinstance(value, _Text):
        try:
            attempts = [yaml.safe_load(value), str(value)]
        except yaml.YAMLError:
            attempts = [str(value)]
    reasons = []
    for attempt in attempts:
        if isinstance(attempt, bool) and kind in (int, float):
            reasons.append("Input should be a number")
            continue
        try:
            return _adapter(kind).validate_python(attempt)
        except ValidationError as error:
            reasons.append(error.errors()[0]["msg"])
    expected = reasons[0].replace("Input should be ", "expected ")
    raise ConfigError(f"{key} is {attempts[0]!r}, {expected} (from {origin})")
