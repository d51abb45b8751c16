"""`davatar prior train|sample|import|show`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from davatar.cli import console
from davatar.core import runs
from davatar.core.errors import DataError, Interrupted, MissingError, UsageError

app = typer.Typer(no_args_is_help=True, help="Train, sample and show head models and the priors over their codes.")

TrainKind = Literal["nphm", "identity", "expression", "joint"]
PREFIX = {"nphm": "NPHM"}
DEFAULT_PRESET = {"nphm": "open", "joint": "expression"}


def _prior_names() -> list[str]:
    return ["open-identity", "open-expression"] + [run.name for run in runs.list_runs(prefix="PR")]


@app.command()
def train(
    kind: Annotated[TrainKind, typer.Argument(help="the head model itself (nphm), or a prior over its codes")],
    preset: Annotated[str | None, typer.Option(help="named settings; default: the shipped weights' own")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="one setting")] = None,
    steps: Annotated[int | None, typer.Option(help="training steps (priors only)")] = None,
    seed: Annotated[int | None, typer.Option(help="of every random draw")] = None,
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
        from davatar.headmodel.training import TrainingSettings

        if flags.pop("steps") is not None:
            raise UsageError("a head model has steps per stage", mend="give --set identity.steps=..., joint.steps=...")
        return resolve(TrainingSettings, preset, config, sets=sets, flags=flags, component="nphm", **where)
    from davatar.prior.settings import PriorSettings

    return resolve(PriorSettings, preset, config, sets=sets, flags=flags, **where)


def _train(kind: TrainKind, settings: Any, folder: Path) -> Path:
    if kind != "nphm":
        from davatar.prior.training import train_prior

        return train_prior(kind, settings, folder, console.progress())
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
    if kind == "nphm":
        stages = {stage: getattr(settings, stage).steps for stage in ("identity", "deformation", "joint")}
        figures = {"kind": kind, "steps": stages, "heads_per_batch": settings.heads, "heads_in_memory": settings.pool}
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
        str, typer.Option(help="expression prior; `neutral` for none", autocompletion=_prior_names)
    ] = "open-expression",
    head_model: Annotated[str, typer.Option(help="head model that makes surfaces of codes")] = "open",
    steps: Annotated[int, typer.Option(help="noise levels walked")] = 50,
    sampler: Annotated[Literal["dpm", "ddim", "ancestral"], typer.Option(help="how they are walked")] = "dpm",
    seed: Annotated[int, typer.Option(help="same seed, same heads")] = 0,
    resolution: Annotated[int, typer.Option(help="samples per axis of the surface search")] = 96,
    out: Annotated[Path, typer.Option(help="folder for meshes (m), codes.npz and heads.png")] = Path("heads"),
) -> None:
    """Draw heads: meshes, their codes, and one picture of all of them."""
    from davatar.headmodel.head_model import HeadModel
    from davatar.prior.code_prior import CodePrior
    from davatar.prior.heads import sample_codes, write_heads
    from davatar.raster.embree import EmbreeRasterizer

    head = HeadModel.from_pretrained(_head_model(head_model))
    who = None if identity == "mean" else CodePrior.from_pretrained(identity)
    what = None if expression == "neutral" else CodePrior.from_pretrained(expression)
    codes = sample_codes(head, who, what, n, steps, seed, sampler)
    written = write_heads(out, head, codes, resolution, EmbreeRasterizer(), console.progress())
    console.result(
        {key: str(path) for key, path in written.items()}, f"{n} heads in {out}; picture: {written['picture']}"
    )


def _head_model(name: str) -> str | Path:
    """ "open", a file, or the run that trained one."""
    if name == "open" or Path(name).is_file():
        return name
    return runs.resolve_run(name).folder / "model.safetensors"


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="published checkpoint (model-<n>.pt), or the folder above it")],
    out: Annotated[Path, typer.Option(help="file to write (.safetensors)")],
    weights: Annotated[Literal["model", "ema"], typer.Option(help="which of the two stored sets")] = "model",
    kind: Annotated[
        Literal["identity", "expression", "joint"] | None, typer.Option(help="default: by the folder's name")
    ] = None,
    head_model: Annotated[
        Path | None, typer.Option(help="published head model whose code table gives the range; default: beside it")
    ] = None,
    bounds: Annotated[
        tuple[float, float] | None, typer.Option(help="the range itself: lowest and highest code value")
    ] = None,
) -> None:
    """Turn a published prior into one self-contained file of ours. Nothing stored in it is executed."""
    from davatar.prior.checkpoint import write_prior
    from davatar.prior.published import load_published, stored_as

    prior = load_published(source, weights, kind, head_model, bounds)
    network, schedule = stored_as(prior)
    write_prior(out, prior, network, schedule)
    console.result({"prior": str(out), **prior.describe()}, f"{out}\nlook at it: davatar prior show {out}")


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="prior: shipped name, run, file or published folder; or a head model: open, a run",
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
    n: Annotated[int, typer.Option("-n", min=20, help="samples to judge")] = 1000,
    steps: Annotated[int, typer.Option(help="noise levels walked per sample")] = 50,
    seed: Annotated[int, typer.Option(help="of samples and noise")] = 0,
) -> None:
    """Say what a prior or a head model is, and with --evaluate how good it is."""
    if name == "open" or name.startswith(f"{PREFIX['nphm']}-"):
        _show_head_model(name, evaluate, sheet)
        return
    from davatar.prior.code_prior import CodePrior

    prior = CodePrior.from_pretrained(name)
    document = prior.describe()
    settings = document.pop("settings", {})
    console.table(["", name], [[key.replace("_", " "), str(value)] for key, value in document.items()])
    if evaluate:
        figures = _evaluate(prior, n, steps, seed)
        document["evaluation"] = figures
        _show_evaluation(figures)
    console.result({"name": name, **document, "settings": settings})


def _show_head_model(name: str, evaluate: bool, sheet: Path | None) -> None:
    from davatar.headmodel.evaluate import evaluate_open
    from davatar.headmodel.head_model import HeadModel

    model = HeadModel.from_pretrained(_head_model(name))
    document = model.describe()
    console.table(["", name], [[key.replace("_", " "), str(value)] for key, value in document.items()])
    if evaluate:
        figures = evaluate_open(model, sheet=sheet, progress=console.progress())
        document["evaluation"] = figures
        for title in ("truth_to_prediction_mm", "prediction_to_truth_mm"):
            rows = [[region, f"{v['mean']:.3f}", f"{v['p95']:.3f}"] for region, v in figures[title].items()]
            console.table([title.replace("_", " "), "mean", "95 %"], rows)
        console.table(["steepness of the field", ""], [[k, f"{v:.3f}"] for k, v in figures["steepness"].items()])
        rows = [[move, *(f"{share:.2f}" for share in shares.values())] for move, shares in figures["movements"].items()]
        console.table(["share of the true movement", "at 100 %", "at 10 %"], rows)
        console.table(["floating pieces", "heads"], [[str(figures["floating_pieces"]), str(figures["heads"])]])
    console.result({"name": name, **document})


def _evaluate(prior: Any, n: int, steps: int, seed: int) -> dict[str, Any]:
    from davatar.prior.evaluation import evaluate, trained_population

    return evaluate(prior, trained_population(prior), n, steps, seed)


def _show_evaluation(figures: dict[str, Any]) -> None:
    names = list(next(iter(figures["samples"].values())))
    rows = [
        [row, *("" if value is None else f"{value:.4f}" for value in values.values())]
        for row, values in figures["samples"].items()
    ]
    console.table(["samples", *(name.replace("_", " ") for name in names)], rows)
    rows = [
        [reference, level, f"{pair['prior']:.4f}", f"{pair['gaussian']:.4f}"]
        for reference, levels in figures["loss"].items()
        for level, pair in levels.items()
    ]
    console.table(["denoising of", "noise level", "prior's loss", "Gaussian's loss"], rows)
