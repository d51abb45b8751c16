"""`davatar track`: a depth recording in, the tracked head out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from davatar.cli import console
from davatar.core.errors import UsageError


def command(
    recording: Annotated[Path, typer.Argument(help="A folder with depth images: plain RGB-D or DPHM-Kinect.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the track; default: track/ inside the recording.")
    ] = None,
    frames: Annotated[
        str | None, typer.Option(metavar="A:B:STEP", help="Which frames, as a Python slice; default: all.")
    ] = None,
    head_model: Annotated[str, typer.Option(help="open, or the file of a head model.")] = "open",
    stage: Annotated[Literal["linear", "neural"] | None, typer.Option(help="How far to go; default: neural.")] = None,
    preset: Annotated[str, typer.Option(help="open: what measures best; dphm: the published schedule.")] = "open",
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random draw.")] = None,
    mesh_resolution: Annotated[
        int | None, typer.Option(help="Samples per axis of the box around the head.", min=32, max=512)
    ] = None,
    meshes: Annotated[bool | None, typer.Option("--meshes/--no-meshes", help="Write one PLY per frame.")] = None,
    overlay: Annotated[bool | None, typer.Option("--overlay/--no-overlay", help="Write overlay.mp4.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier track in the folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take and stop.")] = False,
) -> None:
    """Track a head through a depth recording. A stopped run goes on with the same command."""
    from davatar.capture.open import open_capture
    from davatar.core.settings import resolve
    from davatar.tracking.settings import TrackSettings

    flags = {
        "stage": stage,
        "seed": seed,
        "output.mesh_resolution": mesh_resolution,
        "output.meshes": meshes,
        "output.overlay": overlay,
    }
    settings = resolve(TrackSettings, preset, config, sets=sets or [], flags=flags).value
    capture = open_capture(recording, console.progress())
    chosen = _slice(frames, len(capture))
    out = out or _place(recording, capture.name)
    if dry_run:
        _show_plan(capture, chosen, settings, out)
        return
    from davatar.tracking.tracker import track

    track(capture, out, settings, head_model, console.progress(), frames=chosen, overwrite=overwrite)
    _report(out, recording)


def _slice(text: str | None, count: int) -> list[int]:
    """ "10:40:2" -> frame indices; one number is one frame."""
    if text is None:
        return list(range(count))
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if not 1 <= len(parts) <= 3:
            raise ValueError
        chosen = [range(count)[parts[0]]] if len(parts) == 1 else list(range(count)[slice(*parts)])
    except (ValueError, IndexError) as error:
        raise UsageError(f"--frames {text} is no slice of {count} frames", mend="write first:end:step") from error
    if not chosen:
        raise UsageError(f"--frames {text} chooses none of {count} frames", mend="write first:end:step")
    return sorted(chosen)


def _place(recording: Path, name: str) -> Path:
    """track/ inside the recording, or below the data folder where the recording cannot be written."""
    if os.access(recording, os.W_OK):
        return recording / "track"
    from davatar.core.paths import data_dir

    return data_dir() / "tracks" / name / "track"


def _show_plan(capture: Any, chosen: list[int], settings: Any, out: Path) -> None:
    neural = settings.stage == "neural"
    stages = ", ".join(stage.name for stage in settings.neural.stages) if neural else "none"
    megabytes = len(chosen) * (0.5 * settings.output.meshes * (settings.output.mesh_resolution / 112) ** 2 + 0.05)
    plan = {
        "recording": f"{capture.name}, {len(chosen)} of {len(capture)} frames",
        "linear fit": f"about {0.3 * len(chosen):.0f} s on one core",
        "neural stages": stages,
        "disk": f"about {megabytes:.0f} MB",
        "out": str(out),
    }
    console.table(["", "plan"], [[key, value] for key, value in plan.items()])
    console.result(plan)


def _report(out: Path, recording: Path) -> None:
    from davatar.core.files import read_json

    about = read_json(out / "track.json")
    found = about["summary"]
    rows = [[key.replace("_", " "), value] for key, value in found.items() if not isinstance(value, dict)]
    rows += [[f"seconds, {name}", value] for name, value in about["seconds"].items()]
    console.table(["", about["recording"]], rows)
    truth = f"davatar eval {out} --ground-truth {recording}" if (recording / "gt").is_dir() else None
    following = [f"davatar avatar train {out}", *([truth] if truth else [])]
    console.result(
        {"out": str(out), **about["summary"], "seconds": about["seconds"], "next": following},
        "\n".join([f"{out}", *(f"next: {line}" for line in following)]),
    )
