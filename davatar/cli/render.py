"""`davatar render`: an avatar in, a video out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    expressions: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Expressions over time, e.g. an edited track/arkit.csv.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="Show so many expressions drawn from a prior, one a second.", min=1)
    ] = None,
    prior: Annotated[str, typer.Option(help="The prior that --sample draws from.")] = "open-expression",
    camera: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.json",
            help="A camera of the data set, orbit, camera_shake, camera_moveX, or a path of one's own; default: the "
            "first camera.",
        ),
    ] = None,
    sequence: Annotated[
        str | None, typer.Option(help="Sequence of the data set; default: the first held-out one.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; default: 1 (5 = most detail), published avatars 20.", min=1)
    ] = None,
    sampler: Annotated[
        Literal["ddpm", "ddim", "unipc", "dpm-solver++"] | None,
        typer.Option(help="Of published avatars; default: ddpm. unipc and dpm-solver++ need fewer steps."),
    ] = None,
    compat: Annotated[bool, typer.Option("--compat", help="The noise of the published script.")] = False,
    start: Annotated[int, typer.Option(help="First frame.", min=0)] = 0,
    frames: Annotated[int | None, typer.Option(help="At most so many frames.", min=1)] = None,
    still: Annotated[bool, typer.Option("--still", help="The head keeps still; only the camera moves.")] = False,
    fps: Annotated[float | None, typer.Option(help="Frames per second of the video; default: 24.", min=1)] = None,
    distance: Annotated[float, typer.Option(help="Of a camera path from the head, m.")] = 1.0,
    shake: Annotated[float, typer.Option(help="camera_shake, camera_moveX: to either side, m.")] = 0.3,
    move_y: Annotated[float, typer.Option(help="camera_shake: above the head's middle, m.")] = 0.02,
    look_y: Annotated[float | None, typer.Option(help="camera_shake: height looked at, m; default: its own.")] = None,
    curve_z: Annotated[float, typer.Option(help="camera_shake: to and fro, m.")] = 0.02,
    frequency: Annotated[float | None, typer.Option(help="Frames per round of a camera path.", min=1)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the noise that every frame starts from, and of --sample.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Frames painted at once; fewer need less memory; default: 8.", min=1)
    ] = None,
    checkpoint: Annotated[int | None, typer.Option(help="Step of the checkpoint; default: the latest.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Keep every frame as PNG.")] = False,
    conditions: Annotated[
        bool, typer.Option("--conditions", help="A second video: position, normal, depth, coverage.")
    ] = False,
    compare: Annotated[bool, typer.Option("--compare", help="A second video: photograph, avatar, difference.")] = False,
    data: Annotated[Path | None, typer.Option(help="A data set; default: the one the run was trained on.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Frozen base of a published archive: a folder, if not the one that it names.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="The video; default: inside the run.")] = None,
) -> None:
    """Render a video: held-out frames, a camera path around the head, or another's expressions.

    A camera file holds keys in time (s), smooth in between and held after the last. Positions are metres about the
    middle of the head (x to its left, y up, z out of the face), fov is in degrees:

    \b
    [{"time": 0, "position": [0, 0, 0.9], "look_at": [0, 0, 0], "fov": 20},
     {"time": 2, "position": [0.3, 0.05, 0.8]}]

    or cameras in the recording's world, K in pixels of a picture that wide:

    \b
    {"width": 512, "keys": [{"time": 0, "world_to_camera": [4 rows], "K": [3 rows]}, ...]}

    A table of expressions has a column time (s) or frame, and any of the 53 weights by name, as `davatar track`
    writes it in arkit.csv. Absent weights are 0, an empty cell sets no key, and a name without its side moves both.
    """
    from davatar.avatar.rendering import RenderSettings, render
    from davatar.avatar.scenes import CameraMove, Shot
    from davatar.core.errors import UsageError

    if expressions is not None and sample is not None:
        raise UsageError("both --expressions and --sample are given", mend="choose one")
    chosen = runs.resolve_run(run)
    settings = RenderSettings(
        shot=Shot(
            sequence=sequence,
            camera=camera,
            move=CameraMove(distance, shake, move_y, look_y, curve_z, frequency),
            start=start,
            frames=frames,
            still=still,
            fps=fps,
        ),
        steps=steps,
        sampler=sampler,
        compat=compat,
        batch=batch,
        seed=seed,
        checkpoint=checkpoint,
        pictures=pictures,
        conditions=conditions,
        compare=compare,
        device=device,
        base=base,
    )
    told = expressions
    if sample is not None:
        from davatar.checks.sampled_expressions import sampled_expressions

        told = sampled_expressions(sample, prior, seed or 0)
    found = render(chosen, settings, drive, out, data, told, console.progress())
    made = {name: str(path) for name, path in vars(found).items() if isinstance(path, Path)}
    console.result(made | {"frames": found.frames, "fps": found.fps}, "\n".join(made.values()))
