"""`davatar demo`: the whole chain on a built-in subject, and a report that is the tutorial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from davatar.cli import console


def command(
    quick: Annotated[bool, typer.Option("--quick", help="Within 2 minutes, at lower quality.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for everything but the avatar, which becomes a run.")] = Path(
        "davatar-demo"
    ),
    seed: Annotated[int | None, typer.Option(help="Who is filmed, and what they do.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting.")] = None,
) -> None:
    """Film a synthetic person, track, train an avatar, evaluate it; prints the path of a report. Resumes."""
    from davatar.checks.demo import demo
    from davatar.checks.demo_settings import DemoSettings
    from davatar.core.settings import resolve

    flags = {"seed": seed}
    settings = resolve(DemoSettings, "quick" if quick else "full", sets=sets or [], flags=flags, component="demo").value
    found = demo(out, settings=settings, progress=console.progress())
    if all(stage.reused for stage in found.stages.values()):
        console.out("everything was done already")
    lines = [str(found.report.absolute()), *found.commands]
    console.result(
        {
            "report": str(found.report.absolute()),
            "run": str(found.run.folder),
            "numbers": found.numbers,
            "seconds": {name: stage.seconds for name, stage in found.stages.items()},
            "peak_gb": {name: stage.peak_gb for name, stage in found.stages.items()},
            "next": list(found.commands),
        },
        "\n".join(lines),
    )
