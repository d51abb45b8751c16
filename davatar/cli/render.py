"""`davatar render`: an avatar in, a video out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from davatar.cli import console
from davatar.core import runs
from davatar.core.errors import UsageError


def _names() -> list[str]:
    return [run.name for run in runs.list_runs()]


def _option(text: str, *names: str, **limits: Any) -> Any:
    return typer.Option(*names, help=text, **limits)


# Who is shown, and what the face does.
RunName = Annotated[str, typer.Argument(help="A run (DA-3, or its folder).", autocompletion=_names)]
Drive = Annotated[Path | None, _option("Another person's track: its expressions and head motion are shown.")]
Table = Annotated[Path | None, _option("Expressions over time, e.g. an edited track/arkit.csv.", metavar="FILE.csv")]
Sample = Annotated[int | None, _option("Show so many expressions drawn from a prior, one a second.", min=1)]
Prior = Annotated[str, _option("The prior that --sample draws from.")]
Still = Annotated[bool, _option("The head keeps still; only the camera moves.", "--still")]

# Which frames, from where.
CAMERA = (
    "A camera of the data set, orbit, camera_shake, camera_moveX, or a path of one's own; default: the first camera."
)
Camera = Annotated[str | None, _option(CAMERA, metavar="NAME|FILE.json")]
Sequence = Annotated[str | None, _option("Sequence of the data set; default: the first held-out one.")]
Start = Annotated[int, _option("First frame.", min=0)]
Frames = Annotated[int | None, _option("At most so many frames.", min=1)]
Fps = Annotated[
    float | None, _option("Frames per second of the video; default: the driver's where they are known, else 24.", min=1)
]
Distance = Annotated[float, _option("Of a camera path from the head, m.")]
Shake = Annotated[float, _option("camera_shake, camera_moveX: to either side, m.")]
MoveY = Annotated[float, _option("camera_shake: above the head's middle, m.")]
LookY = Annotated[float | None, _option("camera_shake: height looked at, m; default: its own.")]
CurveZ = Annotated[float, _option("camera_shake: to and fro, m.")]
Frequency = Annotated[float | None, _option("Frames per round of a camera path.", min=1)]

# How it is painted.
STEPS = "Denoising steps; default: 1 (5 = most detail), published avatars 20."
Steps = Annotated[int | None, _option(STEPS, min=1)]
Sampler = Annotated[
    Literal["ddpm", "ddim", "unipc", "dpm-solver++"] | None,
    _option("Of published avatars; default: ddpm. unipc and dpm-solver++ need fewer steps."),
]
Compat = Annotated[bool, _option("The noise of the published script.", "--compat")]
Seed = Annotated[int | None, _option("Of the noise that every frame starts from, and of --sample.")]
Batch = Annotated[int | None, _option("Frames painted at once; fewer need less memory; default: 8.", min=1)]
Checkpoint = Annotated[int | None, _option("Step of the checkpoint; default: the latest.")]
Base = Annotated[str | None, _option("Frozen base of a published avatar: a folder or file, if not what it names.")]
PreviewDecoder = Annotated[
    Path | None,
    _option("Of published avatars: a small decoder (madebyollin/taesd) instead of the base's.", metavar="FOLDER"),
]
Device = Annotated[str, _option("cpu, cuda, ...")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    _option("Inside the network; auto: as trained, published avatars float16 on a GPU."),
]
COMPILE = "Compile the denoiser: minutes before the first frame, less for each; needs a C++ compiler or Triton."
Compile = Annotated[bool, _option(COMPILE, "--compile")]
Attention = Annotated[
    Literal["sdpa", "xformers"], _option("Of published avatars: torch's own, or the package xformers on a GPU.")
]

# What comes out.
Pictures = Annotated[bool, _option("Keep every frame as PNG.", "--pictures")]
Conditions = Annotated[bool, _option("A second video: position, normal, depth, coverage.", "--conditions")]
Compare = Annotated[bool, _option("A second video: photograph, avatar, difference.", "--compare")]
Data = Annotated[Path | None, _option("A data set; default: the one the run was trained on.")]
Out = Annotated[Path | None, _option("The video; default: inside the run.")]


def command(
    run: RunName,
    drive: Drive = None,
    expressions: Table = None,
    sample: Sample = None,
    prior: Prior = "open-expression",
    camera: Camera = None,
    sequence: Sequence = None,
    steps: Steps = None,
    sampler: Sampler = None,
    compat: Compat = False,
    start: Start = 0,
    frames: Frames = None,
    still: Still = False,
    fps: Fps = None,
    distance: Distance = 1.0,
    shake: Shake = 0.3,
    move_y: MoveY = 0.02,
    look_y: LookY = None,
    curve_z: CurveZ = 0.02,
    frequency: Frequency = None,
    seed: Seed = None,
    batch: Batch = None,
    checkpoint: Checkpoint = None,
    pictures: Pictures = False,
    conditions: Conditions = False,
    compare: Compare = False,
    data: Data = None,
    base: Base = None,
    preview_decoder: PreviewDecoder = None,
    device: Device = "cpu",
    precision: Precision = "auto",
    compile_: Compile = False,
    attention: Attention = "sdpa",
    out: Out = None,
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

    if expressions is not None and sample is not None:
        raise UsageError("both --expressions and --sample are given", mend="choose one")
    chosen = runs.resolve_run(run)
    move = CameraMove(distance, shake, move_y, look_y, curve_z, frequency)
    shot = Shot(sequence, camera, move, start=start, frames=frames, still=still, fps=fps)
    sampling = {"steps": steps, "sampler": sampler, "compat": compat, "batch": batch, "seed": seed}
    outputs = {"pictures": pictures, "conditions": conditions, "compare": compare}
    parts = {"checkpoint": checkpoint, "base": base, "preview_decoder": preview_decoder}
    computing = {"device": device, "precision": precision, "compile": compile_, "attention": attention}
    settings = RenderSettings(shot, **sampling, **outputs, **parts, **computing)
    told = expressions if sample is None else _drawn(sample, prior, seed or 0)
    found = render(chosen, settings, drive, out, data, told, console.progress())
    made = {name: str(path) for name, path in vars(found).items() if isinstance(path, Path)}
    about = {"frames": found.frames, "fps": found.fps, "precision": found.precision}
    console.result(made | about, "\n".join(made.values()))


def _drawn(count: int, prior: str, seed: int) -> Any:
    from davatar.checks.sampled_expressions import sampled_expressions

    return sampled_expressions(count, prior, seed)
