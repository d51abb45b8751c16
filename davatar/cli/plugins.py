"""`davatar plugins list|check|new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from davatar.cli import console
from davatar.core import plugins, templates
from davatar.core.errors import VerificationError

app = typer.Typer(no_args_is_help=True, help="List, check and make plugins.")


def _groups(kind: str | None) -> list[str]:
    if kind is None:
        return list(plugins.GROUPS)
    group = kind if kind.startswith("davatar.") else f"davatar.{kind if kind.endswith('s') else kind + 's'}"
    plugins.names(group)
    return [group]


def _kinds() -> list[str]:
    return [group.removeprefix("davatar.").removesuffix("s") for group in plugins.GROUPS]


def _names() -> list[str]:
    return sorted({plugin.name for plugin in plugins.listed()})


Kind = Annotated[str | None, typer.Argument(help=f"{', '.join(_kinds())}; default: all", autocompletion=_kinds)]


@app.command("list")
def list_(kind: Kind = None) -> None:
    """List installed plugins; nothing is imported."""
    found = [plugin for group in _groups(kind) for plugin in plugins.listed(group)]
    console.table(
        ["group", "name", "brought by", "is"],
        [[p.group.removeprefix("davatar."), p.name, p.distribution, p.target] for p in found],
    )
    console.result([vars(plugin) for plugin in found])


@app.command()
def check(
    kind: Kind = None,
    name: Annotated[str | None, typer.Argument(help="one plugin of that kind", autocompletion=_names)] = None,
) -> None:
    """Import plugins and run the checks of their contract; exit code 5 if one does not hold."""
    from davatar.testing import check_plugin

    chosen = [p for group in _groups(kind) for p in plugins.listed(group) if name in (None, p.name)]
    if name is not None and not chosen:
        plugins.load(_groups(kind)[0], name)
    reports = []
    for plugin in chosen:
        try:
            checked = check_plugin(plugin.group, plugin.name)
            reports.append((plugin, True, checked))
        except Exception as error:  # foreign code: whatever it raises is the finding
            reports.append((plugin, False, str(error) or type(error).__name__))
    console.table(
        ["group", "name", "state", ""],
        [[p.group.removeprefix("davatar."), p.name, "ok" if ok else "broken", text] for p, ok, text in reports],
    )
    console.result([{**vars(p), "ok": ok, "report": text} for p, ok, text in reports])
    failed = [p.name for p, ok, _ in reports if not ok]
    if failed:
        raise VerificationError(f"{len(failed)} of {len(reports)} plugins do not work: {', '.join(failed)}")


@app.command()
def new(
    kind: Annotated[
        str, typer.Argument(help="metric, capture, rasterizer or scan", autocompletion=templates.plugin_kinds)
    ],
    name: Annotated[str, typer.Argument(help="lower-case words joined by '-', e.g. my-metric")],
    folder: Annotated[Path, typer.Option(help="where to make the distribution's folder")] = Path("."),
) -> None:
    """Make a new plugin: a small distribution that installs, works and passes its tests as it is."""
    made = templates.new_plugin(kind, name, folder)
    console.result(
        {"folder": str(made)},
        f"{made}\nNext: pip install -e {made} && pytest {made}, then edit {made / 'src'}",
    )
