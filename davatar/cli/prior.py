"""`davatar prior train|sample|import|show|evaluate`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from davatar.cli import console
from davatar.core import runs
from davatar.core.errors import DataError, Interrupted, MissingError, UsageError, VerificationError

app = typer.Typer(no_args_is_help=True, help="Train, sample and show head models and the priors over their codes.")

TrainKind = Literal["nphm", "identity", "expression", "joint"]
PREFIX = {"nphm": "NPHM"}
DEFAULT_PRESET = {"nphm": "open"}


Samples = Annotated[int, typer.Option("-n", min=20, help="samples to judge, and held-out values to judge them by")]
Steps = Annotated[int, typer.Option(help="noise levels walked per sample")]
LARGEST_SEED = 2**62  # torch takes 63 bits; samplers add to it
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="of samples and noise")]
Surfaces = Annotated[
    int, typer.Option(help="also compare surfaces of this many heads (20 or more; a second each, four sets)")
]


def _prior_names() -> list[str]:
    return ["open-identity", "open-expression", "open-joint"] + [run.name for run in runs.list_runs(prefix="PR")]


@app.command()
def train(
    kind: Annotated[TrainKind, typer.Argument(help="the head model itself (nphm), or a prior over its codes")],
    preset: Annotated[str | None, typer.Option(help="named settings; default: the shipped weights' own")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="one setting")] = None,
    steps: Annotated[int | None, typer.Option(help="training steps (priors only)")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=LARGEST_SEED, help="of every random draw")] = None,
    name: Annotated[str | None, typer.Option(help="label of the new run")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="go on with a stopped run")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take and stop.")] = False,
) -> None:
    """Train a head model or a prior. A stopped run goes on with --resume and ends as if it had not stopped."""
    if resume and (preset or config or sets or steps or seed is not None or name):
        raise UsageError("a resumed run keeps its settings", mend="give --resume alone")
    run = runs.resolve_run(resume) if resume else None
    if run is not None:
        config = run.folder / runs.CONFIG
    elif preset is None and config is None:
        preset = DEFAULT_PRESET.get(kind, kind)
    resolved = _settings(kind, preset, config, sets or [], {"steps": steps, "seed": seed}, environment=run is None)
    if dry_run:
        _show_plan(kind, resolved.value)
        return
    if run is None:
        run = runs.create_run(name=name, prefix=PREFIX.get(kind, "PR"))
        run.write_config(resolved)
    console.progress().info(f"{run.name} in {run.folder}")
    try:
        path = _train(kind, resolved.value, run.folder)
    except (Interrupted, KeyboardInterrupt) as error:
        again = f"`davatar prior train {kind} --resume {run.name}` goes on"
        raise Interrupted("stopped; what was finished is saved", mend=again) from error
    except (UsageError, DataError, MissingError):
        if not resume and not run.checkpoints():  # nothing was trained: leave no empty run behind
            shutil.rmtree(run.folder)
        raise
    console.result(
        {"run": run.name, "folder": str(run.folder), "weights": str(path)},
        f"{path}\nlook at it: davatar prior {'sample --head-model' if kind == 'nphm' else 'show'} {run.name}",
    )


def _settings(kind: str, preset, config, sets, flags: dict[str, Any], environment: bool):
    from davatar.core.settings import resolve

    where = {} if environment else {"env_prefix": ""}
    if kind == "nphm":
        from davatar.headmodel.recipes import COMPONENT, settings_class

        if flags.pop("steps") is not None:
            mend = "give --set identity.steps=..., joint.steps=..., or --set epochs=... with the preset published"
            raise UsageError("a head model has steps per stage, or epochs", mend=mend)
        recipe = settings_class(preset, config, sets)
        return resolve(recipe, preset, config, sets=sets, flags=flags, component=COMPONENT, **where)
    from davatar.prior.settings import PriorSettings

    return resolve(PriorSettings, preset, config, sets=sets, flags=flags, **where)


def _train(kind: TrainKind, settings: Any, folder: Path) -> Path:
    if kind != "nphm":
        from davatar.prior.training import train_prior
        from davatar.raster.embree import EmbreeRasterizer

        return train_prior(kind, settings, folder, console.progress(), rasterizer=EmbreeRasterizer())
    from davatar.core.manifest import end_manifest, write_manifest
    from davatar.headmodel.training import train_nphm

    write_manifest(folder, seed=settings.seed, kind=kind)
    status = "failed"
    try:
        path = train_nphm(settings, folder, console.progress())
        status = "done"
    except (Interrupted, KeyboardInterrupt):
        status = "interrupted"
        raise
    finally:
        end_manifest(folder, status)
    return path


def _show_plan(kind: TrainKind, settings: Any) -> None:
    if kind == "nphm" and hasattr(settings, "epochs"):
        from davatar.headmodel.published_training import plan

        figures = plan(settings)
    elif kind == "nphm":
        from davatar.headmodel.head_model import find_head_model

        stages = {stage: getattr(settings, stage).steps for stage in ("identity", "deformation", "joint")}
        start = settings.start and find_head_model(settings.start)
        figures = {
            "kind": kind,
            "start": start or "random weights",
            "steps": stages,
            "heads_per_batch": settings.heads,
            "heads_in_memory": settings.pool,
        }
    else:
        from davatar.prior.training import plan

        figures = plan(kind, settings)
    console.table(["", "dry run"], [[key, str(value)] for key, value in figures.items()])
    console.result(figures)


@app.command()
def sample(
    n: Annotated[int, typer.Option("-n", min=1, help="number of heads")] = 8,
    identity: Annotated[
        str, typer.Option(help="identity or joint prior; `mean` for the mean head", autocompletion=_prior_names)
    ] = "open-identity",
    expression: Annotated[
        str | None,
        typer.Option(
            help="expression prior; `neutral` for none; default: open-expression, or what a joint prior draws",
            autocompletion=_prior_names,
        ),
    ] = None,
    head_model: Annotated[str, typer.Option(help="head model that makes surfaces of codes")] = "open",
    steps: Annotated[int, typer.Option(help="noise levels walked; ancestral wants all, usually 1000")] = 20,
    sampler: Annotated[
        Literal["dpm", "unipc", "ddim", "ancestral"], typer.Option(help="how they are walked; dpm: DPM-Solver++")
    ] = "dpm",
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="same seed, same heads")] = 0,
    resolution: Annotated[int, typer.Option(min=8, help="samples per axis of the surface search")] = 128,
    out: Annotated[
        Path, typer.Option(help="folder for meshes (m), codes.npz and the picture; an earlier run's are replaced")
    ] = Path("heads"),
    mesh_format: Annotated[
        Literal["both", "ply", "glb", "none"], typer.Option("--format", help="files of each mesh")
    ] = "both",
    grid: Annotated[Path | None, typer.Option(help="picture of all heads (.png, .jpg); default: OUT/heads.png")] = None,
    video: Annotated[Path | None, typer.Option(help="also a video (.mp4) that walks from head to head")] = None,
    between: Annotated[int, typer.Option(min=2, help="video frames from one head to the next")] = 12,
    video_resolution: Annotated[
        int, typer.Option(min=8, help="like --resolution, for the video; with less, lips and lids have holes")
    ] = 128,
) -> None:
    """Draw heads: meshes, their codes, one picture of all of them, and a video if asked for."""
    from davatar.headmodel.head_model import HeadModel
    from davatar.prior.code_prior import CodePrior
    from davatar.prior.gallery import check_files, write_heads, write_walk
    from davatar.prior.heads import sample_codes
    from davatar.raster.embree import EmbreeRasterizer

    check_files(grid, video, out)
    head = HeadModel.from_pretrained(_head_model(head_model))
    who = None if identity == "mean" else CodePrior.from_pretrained(identity)
    if expression is None and not (who is not None and who.kind == "joint"):
        expression = "open-expression"
    what = None if expression in (None, "neutral") else CodePrior.from_pretrained(expression)
    codes = sample_codes(head, who, what, n, steps, seed, sampler)
    formats = {"both": ("ply", "glb"), "none": ()}.get(mesh_format, (mesh_format,))
    painter, progress = EmbreeRasterizer(), console.progress()
    written = write_heads(out, head, codes, resolution, painter, progress, formats, grid)
    said = f"{n} heads in {out}; picture: {written['picture']}"
    if video is not None:
        from davatar.avatar.video import video_writer

        walk = sample_codes(head, who, what, n, steps, seed, sampler, between)
        written["video"] = write_walk(video, head, walk, video_resolution, painter, video_writer, progress=progress)
        said += f"; video: {video}"
    console.result({key: str(path) for key, path in written.items()}, said)


def _head_model(name: str) -> str | Path:
    """ "open", a file, a published folder, or the run that trained one."""
    from davatar.headmodel.head_model import find_head_model

    return find_head_model(name)


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="published head model (checkpoint_epoch_<n>.tar) or prior (model-<n>.pt), or the folder above it"
        ),
    ],
    out: Annotated[Path, typer.Option(help="file to write (.safetensors)")],
    weights: Annotated[Literal["model", "ema"], typer.Option(help="priors: which of the two stored sets")] = "model",
    kind: Annotated[
        Literal["identity", "expression", "joint"] | None,
        typer.Option(help="priors; default: as its configs.yaml or folder says"),
    ] = None,
    head_model: Annotated[
        Path | None, typer.Option(help="priors: head model whose code table gives the range; default: beside it")
    ] = None,
    bounds: Annotated[
        tuple[float, float] | None, typer.Option(help="priors: the range itself, lowest and highest code value")
    ] = None,
) -> None:
    """Turn a published head model or prior into one self-contained file of ours. Nothing stored in it is executed."""
    from davatar.core.files import check_output_file
    from davatar.headmodel.published_checkpoint import is_published
    from davatar.prior.checkpoint import write_prior
    from davatar.prior.published import load_published, stored_as

    check_output_file(out)
    if is_published(source):
        if weights != "model" or kind or head_model or bounds:
            mend = "leave --weights, --kind, --head-model and --bounds away"
            raise UsageError(f"{source} is a head model, which needs no options of priors", mend=mend)
        _import_head_model(source, out)
        return
    prior = load_published(source, weights, kind, head_model, bounds)
    network, schedule = stored_as(prior)
    write_prior(out, prior, network, schedule)
    console.result({"prior": str(out), **prior.describe()}, f"{out}\nlook at it: davatar prior show {out}")


def _import_head_model(source: Path, out: Path) -> None:
    from davatar.headmodel.head_model import HeadModel
    from davatar.headmodel.published_checkpoint import load_published
    from davatar.headmodel.weights import save_published

    save_published(out, load_published(source))
    document = HeadModel.from_pretrained(out).describe()
    console.result({"head_model": str(out), **document}, f"{out}\nlook at it: davatar prior show {out}")


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="prior or head model: shipped name, run, file of ours, published checkpoint or folder",
            autocompletion=_prior_names,
        ),
    ],
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate", help="Measure it on what training never saw: a prior beside a Gaussian, a head model in mm."
        ),
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="with --evaluate, head models: picture (.png) of true and predicted heads")
    ] = None,
    identities: Annotated[
        int, typer.Option(min=1, help="head models: people it is measured on, three expressions each")
    ] = 5,
    fit: Annotated[bool, typer.Option(help="head models: also with codes fitted to the surfaces")] = True,
    islands: Annotated[int, typer.Option(min=0, help="head models: random heads searched for floating pieces")] = 0,
    n: Samples = 1000,
    steps: Steps = 20,
    seed: Seed = 0,
    surfaces: Surfaces = 0,
    head_model: Annotated[str, typer.Option(help="head model for --surfaces")] = "open",
) -> None:
    """Say what a prior or a head model is, and with --evaluate how good it is.

    A head model takes about half a minute of CPU per head (three per identity), half of it for the fit: minutes for
    the default, half an hour for --identities 20; islands take some seconds per head.
    """
    if _is_head_model(name):
        _show_head_model(name, evaluate, sheet, identities=identities, fitted=fit, islands=islands)
        return
    from davatar.prior.code_prior import CodePrior

    prior = CodePrior.from_pretrained(name)
    document = prior.describe()
    settings = document.pop("settings", {})
    console.table(["", name], [[key.replace("_", " "), str(value)] for key, value in document.items()])
    if evaluate:
        from davatar.cli.prior_figures import show_figures
        from davatar.prior.evaluation import evaluate as evaluate_prior
        from davatar.prior.evaluation import trained_population

        parts = n, steps, seed, surfaces, _surface_model(surfaces, head_model)
        figures = evaluate_prior(prior, trained_population(prior), *parts, console.progress())
        document["evaluation"] = figures
        show_figures(name, figures)
    console.result({"name": name, **document, "settings": settings})


def _is_head_model(name: str) -> bool:
    from davatar.headmodel.published_checkpoint import is_published
    from davatar.headmodel.weights import is_head_model

    path = Path(name)
    if path.exists():
        return is_published(path) or any(is_head_model(file) for file in (path, path / "model.safetensors"))
    return name == "open" or name.startswith(f"{PREFIX['nphm']}-")


def _surface_model(surfaces: int, name: str):
    if not surfaces:
        return None
    from davatar.headmodel.head_model import HeadModel

    return HeadModel.from_pretrained(_head_model(name))


@app.command()
def evaluate(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="priors; `families`: one trained on the spot on identities that are no Gaussian; default: the shipped "
            "ones and families",
            autocompletion=_prior_names,
        ),
    ] = None,
    n: Samples = 1000,
    steps: Steps = 20,
    seed: Seed = 0,
    surfaces: Surfaces = 0,
    head_model: Annotated[str, typer.Option(help="head model for --surfaces")] = "open",
    out: Annotated[Path | None, typer.Option(help="also write the figures there (.json)")] = None,
) -> None:
    """Measure priors beside the Gaussian fitted to their data, on held-out codes and meshes; exit code 5 if one fails.

    Minutes of CPU: it says which claims hold (beats the Gaussian, or equals it where the population is one; does not
    repeat training values) and prints the figures behind them.
    """
    from davatar.cli.prior_figures import show_claims, show_figures
    from davatar.core.files import check_output_file, write_json
    from davatar.prior.evidence import OPEN, gather_evidence

    if out is not None:
        check_output_file(out)
    model = _surface_model(surfaces, head_model)
    found = gather_evidence(names or OPEN, n, steps, seed, surfaces, model, console.progress())
    for name, figures in found["priors"].items():
        show_figures(name, figures)
    show_claims(found["claims"])
    if out is not None:
        write_json(out, found)
    failed = [f"{claim['prior']} {claim['says']}" for claim in found["claims"] if not claim["holds"]]
    console.result(found)
    if failed:
        raise VerificationError(f"{len(failed)} of {len(found['claims'])} claims do not hold: {'; '.join(failed)}")


def _show_head_model(name: str, evaluate: bool, sheet: Path | None, **asked: Any) -> None:
    from davatar.core.files import check_output_file
    from davatar.headmodel.head_model import HeadModel

    if sheet is not None:
        check_output_file(sheet)
    model = HeadModel.from_pretrained(_head_model(name))
    document = {"kind": "head model", **model.describe()}
    console.table(["", name], [[key.replace("_", " "), str(value)] for key, value in document.items()])
    if evaluate:
        from davatar.cli.head_model_figures import show_figures
        from davatar.headmodel.evaluate import evaluate_open

        figures = evaluate_open(model, sheet=sheet, progress=console.progress(), **asked)
        document["evaluation"] = figures
        show_figures(figures)
    console.result({"name": name, **document})
