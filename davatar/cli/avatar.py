"""`davatar avatar train|base`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from davatar.cli import console
from davatar.core import runs
from davatar.core.errors import UsageError
from davatar.core.progress import Progress, silent

app = typer.Typer(no_args_is_help=True, help="Train avatars.")

LAUNCH = "accelerate launch --multi_gpu --num_processes 2 -m davatar avatar train ..."
PUBLISHED_DECAY = 1e-2  # weight decay of the published textures
STARTS = "base = the shipped start (tiny); scratch; or a weights file of the same kind"


@app.command()
def train(
    data: Annotated[
        str | None, typer.Argument(help="A data set (v0.1, or its folder), or the folder of a track.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="tiny (CPU, default), small (a GPU with 8 GB) or sd21 (the published recipe, 48 GB)."),
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Train for so many seconds.", min=1)] = None,
    steps: Annotated[int | None, typer.Option(help="Train for so many steps.", min=1)] = None,
    start: Annotated[str | None, typer.Option("--from", help=STARTS)] = None,
    base_model: Annotated[
        str | None, typer.Option("--base", help="Frozen base of small and sd21: a folder, a file or a cached name.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Frames at once and process; fewer need less memory.", min=1)
    ] = None,
    accumulation: Annotated[
        int | None, typer.Option(help="Batches whose gradients are added up before the weights move.", min=1)
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None, typer.Option(help="Inside the network.")
    ] = None,
    average: Annotated[
        float | None, typer.Option(help="Paint with an average of the weights of this decay, e.g. 0.999.", min=0)
    ] = None,
    tracker: Annotated[
        list[str] | None, typer.Option(help="tensorboard or wandb, besides metrics.jsonl; may be repeated.")
    ] = None,
    regression: Annotated[bool, typer.Option("--regression", help="One-step regression, to compare with.")] = False,
    compat: Annotated[bool, typer.Option("--compat", help="Textures decay, as in the published training.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of every random draw.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting.")] = None,
    name: Annotated[str | None, typer.Option(help="Label of the new run.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a stopped run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do and stop.")] = False,
) -> None:
    """Train an avatar. A stopped run goes on with --resume; a budget of steps then ends as if it had not stopped.

    Several processes make one run: accelerate launch --multi_gpu --num_processes 2 -m davatar avatar train ...
    (on CPUs likewise).
    """
    kept = (preset, config, start, name, sets, precision, tracker)
    if resume and (any(kept) or regression or compat or seed is not None or average is not None):
        raise UsageError(
            "a resumed run keeps its settings",
            mend="give only --seconds or --steps, --batch and --accumulation beside --resume",
        )
    if steps and seconds:
        raise UsageError("both --steps and --seconds", mend="give one of them")
    if not resume and data is None:
        raise UsageError("no data set named", mend="davatar avatar train DATA; `davatar data list` shows what there is")
    run = runs.resolve_run(resume) if resume else None
    flags = {"seed": seed, "start": start, "budget.steps": steps, "budget.seconds": seconds, "batch": batch}
    flags["published.base"] = base_model
    flags |= {"accumulation": accumulation, "precision": precision, "average": average}
    flags |= {"trackers": tuple(tracker) if tracker else None}
    if regression:
        flags |= {"tiny_training.regression": True, "published_training.regression": True}
    if compat:
        flags |= {"published_training.texture_weight_decay": PUBLISHED_DECAY}
    resolved = _settings(run, preset, config, sets or [], flags)
    if dry_run:
        _show_plan(run, data, resolved.value)
        return
    from davatar.avatar import processes
    from davatar.avatar.training import train_avatar

    if processes.left_alone():
        raise UsageError("accelerate started one process only", mend=f"for several on CPUs write {LAUNCH}")
    speaks = processes.is_first()
    progress = console.progress() if speaks else silent
    folder = processes.first(lambda: _data_folder(data, run, resolved.value.resolution, progress))
    run = train_avatar(folder, run, resolved, progress, name)
    if speaks:
        last = run.metrics()[-1] if run.metrics() else {}
        console.result(
            {"run": run.name, "folder": str(run.folder), "figures": last},
            f"{run.folder}\nnext: davatar render {run.short_name}\n      davatar eval {run.short_name}",
        )


def _settings(run: runs.Run | None, preset, config, sets: list[str], flags: dict[str, Any]):
    from davatar.avatar.settings import AvatarSettings
    from davatar.core.settings import resolve

    # A budget is given in one unit: whichever is named switches the other off.
    if flags["budget.steps"]:
        sets = [*sets, "budget.seconds=null"]
    if flags["budget.seconds"]:
        sets = [*sets, "budget.steps=null"]
    if run is not None:
        return resolve(AvatarSettings, None, run.folder / runs.CONFIG, env_prefix="", sets=sets, flags=flags)
    return resolve(AvatarSettings, preset or ("tiny" if config is None else None), config, sets=sets, flags=flags)


def _track(data: str) -> Path | None:
    """The track's folder, where `data` names one and no data set."""
    if (Path(data) / "config.json").is_file():
        return None
    return next((p for p in (Path(data), Path(data) / "track") if (p / "track.npz").is_file()), None)


def _recording(track: Path, size: int) -> tuple[list[Any], Any]:
    """What `rasterize_tracks` takes: the tracked recording, and pictures of the avatar's size.

    A track without meshes ended with the morphable model, which then is its surface.
    """
    from davatar.capture.open import open_capture
    from davatar.dataset.rasterize import tracked
    from davatar.dataset.settings import RasterSettings
    from davatar.dataset.tracks import recording_of

    geometry = "neural" if (track / "meshes").is_dir() else "linear"
    return [tracked(track, open_capture(recording_of(track)), geometry=geometry)], RasterSettings(size=size)


def _data_folder(data: str | None, run: runs.Run | None, size: int, progress: Progress) -> Path:
    """The data set; a track is rasterised first, as large as the avatar paints."""
    from davatar.core.paths import data_dir
    from davatar.dataset.layout import resolve_version
    from davatar.dataset.rasterize import place, rasterize_tracks

    if data is None:
        return Path(run.manifest["dataset"])
    root = data_dir() / "rendering_data"
    if (track := _track(data)) is None:
        return resolve_version(data, root)
    recordings, settings = _recording(track, size)
    name = recordings[0].sequence
    return rasterize_tracks(recordings, place(root, recordings, settings, name), settings, name, progress)


def _show_plan(run: runs.Run | None, data: str | None, settings: Any) -> None:
    from davatar.avatar import processes
    from davatar.avatar.plan import plan
    from davatar.avatar.training import device_name
    from davatar.core.paths import models_dir

    track = None if data is None else _track(data)
    folder = _data_folder(data, run, settings.resolution, silent) if track is None else None
    device = device_name()
    found = plan(folder, settings, processes.count(), device)
    made = "a data set to be rasterised"
    if track is not None:
        from davatar.dataset.rasterize import estimate

        expected = estimate(*_recording(track, settings.resolution))
        made += f" from {track}: {expected.steps} time steps x {expected.views} cameras"
    budget, memory = settings.budget, found.memory
    extent = f"{found.train} frames to learn from, {found.held_out} held out"
    length = f"{found.steps} steps" if found.steps else f"{budget.seconds:g} s of {budget.clock} time"
    passes = "" if found.epochs is None else f", {found.epochs:.3g} passes over the frames"
    parts = ("weights", "gradients", "optimizer", "average", "activations")
    sizes = ", ".join(f"{part} {_size(getattr(memory, part))}" for part in parts if getattr(memory, part))
    where = run.folder if run else models_dir() / "DA-<next>"
    rows = [
        ("data", made if track else f"{folder}: {extent}"),
        ("avatar", f"{settings.kind}, {settings.resolution} px, from {settings.start}, {settings.precision}"),
        ("length", f"{length} of {found.frames_per_step} frames{passes}"),
        (f"memory ({device})", f"about {_size(memory.total)}: {sizes}"),
        ("memory (frames)", f"about {_size(memory.frames)}"),
        ("checkpoints", f"every {settings.checkpoint_every} steps, {_size(found.checkpoint_bytes)} each"),
        ("previews", f"every {settings.preview_every} steps, {settings.preview_frames} frames"),
        ("outputs", f"{where}: {', '.join(found.outputs)}"),
    ]
    console.table(["", "plan"], rows)
    told = asdict(found) | {"data": None if folder is None else str(folder), "kind": settings.kind}
    console.result(told | {"memory": asdict(memory) | {"total": memory.total}, "out": str(where)})


def _size(count: float) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


@app.command()
def base(
    out: Annotated[Path, typer.Argument(help="Folder for checkpoints and tiny-base.safetensors.")],
    corpus: Annotated[Path | None, typer.Option(help="Folder for the filmed people; default: OUT/corpus.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.", min=1)] = None,
    identities: Annotated[int | None, typer.Option(help="How many synthetic people.", min=2)] = None,
    film_only: Annotated[bool, typer.Option("--film-only", help="Film the people and stop.")] = False,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting.")] = None,
) -> None:
    """Train the start that ships with davatar, from synthetic people; a stopped training goes on."""
    from davatar.avatar.base_corpus import film_corpus
    from davatar.avatar.base_training import BaseSettings, train_base
    from davatar.core.settings import resolve

    flags = {"steps": steps, "corpus.identities": identities}
    settings = resolve(BaseSettings, None, config, env_prefix="", sets=sets or [], flags=flags).value
    corpus = corpus or out / "corpus"
    if film_only:
        film_corpus(corpus, settings.corpus, console.progress())
        console.result({"corpus": str(corpus)}, str(corpus))
        return
    path = train_base(out, corpus, settings, console.progress())
    console.result({"weights": str(path)}, str(path))
