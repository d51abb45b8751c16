"""`davatar render`: an avatar in, a video out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from davatar.cli import console
from davatar.core import runs


def _names() -> list[str]:
    return [run.name for run in runs.list_runs()]


def command(
    run: Annotated[str, typer.Argument(help="A run (DA-3, or its folder).", autocompletion=_names)],
    drive: Annotated[
        Path | None, typer.Option(help="Another person's track: its expressions and head motion are shown.")
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="A camera of the data set, orbit or shake; default: the first camera.")
    ] = None,
    sequence: Annotated[
        str | None, typer.Option(help="Sequence of the data set; default: the first held-out one.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps: 1 = smallest error, 5 = most detail.", min=1)] = 1,
    frames: Annotated[int | None, typer.Option(help="At most so many frames.", min=1)] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of the video.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the noise that every frame starts from.")] = 0,
    checkpoint: Annotated[int | None, typer.Option(help="Step of the checkpoint; default: the latest.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Also write every frame as PNG.")] = False,
    data: Annotated[Path | None, typer.Option(help="A data set; default: the one the run was trained on.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="The video; default: inside the run.")] = None,
) -> None:
    """Render a video: held-out frames, a camera path around the head, or another person's expressions."""
    from davatar.avatar.rendering import RenderSettings, render

    chosen = runs.resolve_run(run)
    settings = RenderSettings(
        sequence=sequence,
        camera=camera,
        steps=steps,
        seed=seed,
        fps=fps,
        frames=frames,
        checkpoint=checkpoint,
        pictures=pictures,
        device=device,
    )
    found = render(chosen, settings, drive, out, data, console.progress())
    console.result({"video": str(found.video), "frames": found.frames, "fps": found.fps}, str(found.video))
