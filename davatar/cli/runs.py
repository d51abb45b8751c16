"""`davatar runs list|show|compare|rm`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from davatar.cli import console
from davatar.core import runs
from davatar.core.errors import DataError, UsageError

app = typer.Typer(no_args_is_help=True, help="List, show, compare and remove runs.")


def _names() -> list[str]:
    return [run.name for run in runs.list_runs()]


RunName = Annotated[str, typer.Argument(help="path, name, short form, label or participant", autocompletion=_names)]


def _summary(run: runs.Run) -> dict[str, Any]:
    """What a list shows; a run that was killed early lacks some of it."""
    try:
        session = run.manifest["sessions"][-1]
    except (DataError, KeyError, IndexError):
        session = {}
    latest = run.latest_checkpoint()
    logged = run.metrics()
    return {
        "name": run.name,
        "folder": str(run.folder),
        "status": "published" if run.published else session.get("status", "unknown"),
        "started": session.get("started"),
        "step": latest[0] if latest else None,
        "last": logged[-1] if logged else {},
    }


def _figures(line: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in line.items() if name != "step")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command("list")
def list_() -> None:
    """List runs with their state and last logged figures."""
    found = [_summary(run) for run in runs.list_runs()]
    if not found:
        console.out("no runs yet: `davatar demo` makes one")
    else:
        console.table(
            ["run", "status", "started", "checkpoint", "last figures"],
            [[row["name"], row["status"], row["started"], row["step"], _figures(row["last"])] for row in found],
        )
    console.result(found)


@app.command()
def show(run: RunName) -> None:
    """Show one run: where it is, what made it, its settings and last figures."""
    chosen = runs.resolve_run(run)
    about = _summary(chosen)
    document: dict[str, Any] = {**about, "checkpoints": list(chosen.checkpoints())}
    if (chosen.folder / runs.MANIFEST).is_file():
        document["manifest"] = chosen.manifest
    if (chosen.folder / runs.CONFIG).is_file():
        document["config"] = chosen.config
    rows = [[key, _text(value)] for key, value in _flat(document).items() if value not in (None, {}, [])]
    console.table(["", chosen.name], rows)
    console.result(document)


@app.command()
def compare(names: Annotated[list[str], typer.Argument(metavar="RUN RUN...", autocompletion=_names)]) -> None:
    """Show the settings in which runs differ, and their last figures, side by side."""
    if len(names) < 2:
        raise UsageError("one run cannot be compared", mend="give two or more")
    chosen = [runs.resolve_run(name) for name in names]
    settings = [_flat(run.config) for run in chosen]
    figures = [_summary(run)["last"] for run in chosen]
    document = {
        "runs": [run.name for run in chosen],
        "settings": {k: v for k, v in _side_by_side(settings).items() if any(x != v[0] for x in v)},
        "figures": _side_by_side(figures),
    }
    columns = ["", *document["runs"]]
    console.table(columns, [[k, *map(_text, v)] for k, v in document["settings"].items()], title="settings that differ")
    console.table(columns, [[k, *map(_text, v)] for k, v in document["figures"].items()], title="last figures")
    console.result(document)


@app.command()
def rm(
    run: RunName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a run with its checkpoints, renders and evaluations."""
    import shutil

    from davatar.core.lock import exclusive

    chosen = runs.resolve_run(run)
    if chosen.published:
        raise UsageError("is a published archive", file=chosen.folder, mend="remove the folder by hand")
    if not yes and not console.confirm(f"Remove {chosen.folder}?"):
        raise UsageError(f"{chosen.name} was not removed", mend="answer y, or give --yes")
    with exclusive(chosen.folder):
        shutil.rmtree(chosen.folder)
    console.result({"removed": str(chosen.folder)}, f"removed {chosen.folder}")


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return out


def _side_by_side(columns: list[dict[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for column in columns for key in column)
    return {key: [column.get(key) for column in columns] for key in keys}
