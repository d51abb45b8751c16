"""`davatar avatar train|base`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from davatar.cli import console
from davatar.core import runs
from davatar.core.errors import Interrupted, UsageError

app = typer.Typer(no_args_is_help=True, help="Train avatars.")

STARTS = "base = the shipped start (tiny); scratch; or a weights file of the same kind"


@app.command()
def train(
    data: Annotated[
        str | None, typer.Argument(help="A data set (v0.1, or its folder), or the folder of a track.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="tiny (CPU, default), small or sd21 (GPU).")] = None,
    seconds: Annotated[float | None, typer.Option(help="Train for so many seconds.", min=1)] = None,
    steps: Annotated[int | None, typer.Option(help="Train for so many steps.", min=1)] = None,
    start: Annotated[str | None, typer.Option("--from", help=STARTS)] = None,
    regression: Annotated[bool, typer.Option("--regression", help="One-step regression, to compare with.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of every random draw.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting.")] = None,
    name: Annotated[str | None, typer.Option(help="Label of the new run.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a stopped run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do and stop.")] = False,
) -> None:
    """Train an avatar. A stopped run goes on with --resume; a budget of steps then ends as if it had not stopped."""
    if resume and (preset or config or start or name or regression or seed is not None or sets):
        raise UsageError("a resumed run keeps its settings", mend="give only --seconds or --steps beside --resume")
    if steps and seconds:
        raise UsageError("both --steps and --seconds", mend="give one of them")
    if not resume and data is None:
        raise UsageError("no data set named", mend="davatar avatar train DATA; `davatar data list` shows what there is")
    run = runs.resolve_run(resume) if resume else None
    flags = {"seed": seed, "start": start, "budget.steps": steps, "budget.seconds": seconds}
    kind = {"tiny_training.regression": True, "published_training.regression": True} if regression else {}
    resolved = _settings(run, preset, config, sets or [], flags | kind)
    folder = _data_folder(data, run, dry_run)
    if dry_run:
        _show_plan(folder, resolved.value)
        return
    from davatar.avatar.training import train_avatar

    if run is None:
        run = runs.create_run(name=name)
    console.progress().info(f"{run.name} in {run.folder}")
    try:
        train_avatar(folder, run, resolved, console.progress())
    except Interrupted as error:
        raise Interrupted(error.message, mend=f"`davatar avatar train --resume {run.name}` goes on") from error
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


def _data_folder(data: str | None, run: runs.Run | None, dry_run: bool) -> Path:
    """The data set; a track is rasterised first."""
    from davatar.core.paths import data_dir
    from davatar.dataset.layout import resolve_version

    if data is None:
        return Path(run.manifest["dataset"])
    track = next((p for p in (Path(data), Path(data) / "track") if (p / "track.npz").is_file()), None)
    root = data_dir() / "rendering_data"
    if track is None or (Path(data) / "config.json").is_file():
        return resolve_version(data, root)
    from davatar.capture.open import open_capture
    from davatar.dataset.rasterize import place, rasterize_tracks, tracked
    from davatar.dataset.settings import RasterSettings
    from davatar.dataset.tracks import recording_of

    recordings, settings = [tracked(track, open_capture(recording_of(track)))], RasterSettings()
    if dry_run:
        return root / f"v<next>-{recordings[0].sequence}"
    folder = place(root, recordings, settings, recordings[0].sequence)
    return rasterize_tracks(recordings, folder, settings, recordings[0].sequence, console.progress())


def _show_plan(folder: Path, settings: Any) -> None:
    budget = settings.budget
    length = f"{budget.steps} steps" if budget.steps else f"{budget.seconds:g} s of {budget.clock} time"
    plan = {"data": str(folder), "kind": settings.kind, "start": settings.start, "budget": length}
    plan |= {"batch": settings.batch, "checkpoints": f"every {settings.checkpoint_every} steps"}
    console.table(["", "plan"], [[key, value] for key, value in plan.items()])
    console.result(plan)


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
