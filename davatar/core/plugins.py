"""The plugin registry: one mechanism, Python entry points, for built-in and foreign parts alike (design 6).

| group | an entry point names |
|---|---|
| davatar.rasterizers | a callable without arguments that returns a `raster.maps.Rasterizer` |
| davatar.metrics | a callable without arguments that returns an `evaluation.metric.Metric` |
| davatar.captures | a callable(path) that returns a `capture.frame.Capture`, or None when the layout is not its own |
| davatar.scans | a callable(settings) that returns a `headmodel.scans.ScanSource` |
| davatar.commands | a Typer app, mounted as a subcommand of `davatar` |

Listing reads metadata only; a plugin is imported when it is loaded. One that does not import is
`broken` with its reason and disturbs no other.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from davatar.core.errors import MissingError, UsageError

GROUPS = ("davatar.rasterizers", "davatar.metrics", "davatar.captures", "davatar.scans", "davatar.commands")


@dataclass(frozen=True)
class Plugin:
    group: str
    name: str
    target: str  # module:attribute
    distribution: str  # name and version of the package that brings it


@dataclass(frozen=True)
class Broken:
    plugin: Plugin
    reason: str


def _check_group(group: str) -> None:
    if group not in GROUPS:
        raise UsageError(f"no plugin group is called {group!r}", mend=f"there are {', '.join(GROUPS)}")


def _describe(entry: EntryPoint) -> Plugin:
    owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
    return Plugin(entry.group, entry.name, entry.value, owner)


def _entries(group: str) -> dict[str, dict[str, EntryPoint]]:
    """name -> target -> entry point; more than one target under a name is a clash."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, {}).setdefault(entry.value, entry)
    return dict(sorted(found.items()))


def names(group: str) -> list[str]:
    """Names in a group, sorted.

    Raises:
        UsageError: there is no such group.
    """
    _check_group(group)
    return list(_entries(group))


def listed(group: str | None = None) -> list[Plugin]:
    """What is installed, without importing any of it.

    Raises:
        UsageError: there is no such group.
    """
    if group is not None:
        _check_group(group)
    groups = GROUPS if group is None else (group,)
    return [_describe(entry) for g in groups for same in _entries(g).values() for entry in same.values()]


def load(group: str, name: str) -> Any:
    """Import what the entry point names.

    Raises:
        UsageError: no plugin, or more than one, has that name.
        MissingError: it does not import; the message gives the reason.
    """
    _check_group(group)
    known = _entries(group)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
        raise UsageError(f"group {group} has no plugin {name!r}", mend=hint)
    if len(known[name]) > 1:
        owners = ", ".join(_describe(entry).distribution for entry in known[name].values())
        raise UsageError(f"{name!r} of {group} is brought by {owners}", mend="uninstall all of them but one")
    (entry,) = known[name].values()
    try:
        return entry.load()
    except Exception as error:  # foreign code may fail in any way at import
        plugin = _describe(entry)
        raise MissingError(
            f"plugin {name!r} of {plugin.distribution} does not import: {type(error).__name__}: {error}",
            mend=f"reinstall or uninstall {plugin.distribution.split()[0]}",
        ) from error


def broken(group: str | None = None) -> list[Broken]:
    """Import every plugin (of a group) and return those that fail, with the reason."""
    failed = []
    for plugin in listed(group):
        try:
            load(plugin.group, plugin.name)
        except (MissingError, UsageError) as error:
            failed.append(Broken(plugin, str(error)))
    return failed
