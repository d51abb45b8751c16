"""`davatar eval`: a run or a track in, numbers and a report out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from davatar.cli import console


def _names(incomplete: str) -> list[str]:
    from davatar.core.runs import list_runs

    return [run.name for run in list_runs()]


def command(
    what: Annotated[
        str, typer.Argument(help="A run (DA-3, or its folder), or the folder of a track.", autocompletion=_names)
    ],
    split: Annotated[
        str | None,
        typer.Option(help="hold-out-sequence, hold-out-view or hold-out-expression; default: what there is."),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            help="Names, separated by commas; `davatar plugins list` shows them. lpips, jod, ... are plugins."
        ),
    ] = "psnr,ssim,ms-ssim,mse",
    compat: Annotated[
        bool,
        typer.Option(
            "--compat", help="As the published evaluation does: batches of 16, held-out cameras, its file names."
        ),
    ] = False,
    serials: Annotated[str, typer.Option(help="Cameras to look at, separated by commas; default: all.")] = "",
    every: Annotated[int, typer.Option(help="Take every n-th frame.", min=1)] = 1,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Denoising steps; default: 1 (smallest error; 5 = most detail), published avatars 20.", min=1
        ),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="Of published avatars; default: ddpm.")] = None,
    without: Annotated[
        str, typer.Option(help="Of published data: neck, torso, background are left out of the mask; with commas.")
    ] = "",
    checkpoint: Annotated[int | None, typer.Option(help="Step of the checkpoint; default: the latest.")] = None,
    data: Annotated[Path | None, typer.Option(help="A data set; default: the one the run was trained on.")] = None,
    raw: Annotated[
        Path | None, typer.Option(help="For archives: the raw recordings; default: nersemble in the data directory.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Of the published kind: the frozen base model, a folder, a file or its name.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Inside the network; auto: as trained, published avatars float16 on a GPU."),
    ] = "auto",
    ground_truth: Annotated[
        Path | None, typer.Option(help="For a track: the recording with the true geometry under gt/.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where results go; default: inside the run or track.")] = None,
) -> None:
    """Measure an avatar on frames it never saw, or a track against true geometry; writes JSON and a report.html."""
    if Path(what).is_dir() and any((Path(what) / name).exists() for name in ("track.npz", "track/track.npz")):
        _track(Path(what), ground_truth, out, every)
        return
    from davatar.checks.avatar_evaluation import EvaluationSettings, evaluate_avatar

    settings = EvaluationSettings(
        split, _words(metrics), compat, _words(serials), every, steps, sampler, _words(without), device, precision
    )
    found = evaluate_avatar(
        what,
        settings,
        data=data,
        raw=raw,
        base=base,
        checkpoint=checkpoint,
        out=out,
        command=shlex.join(["davatar", *sys.argv[1:]]),
        progress=console.progress(),
    )
    from davatar.checks.avatar_report import availability, metric_table

    rows = metric_table(found.document)
    console.table(rows.head, rows.rows)
    for line in availability(found.document):
        console.out(line)
    console.out(f"numbers: {found.result}\nreport:  {found.report}")
    console.result(found.document | {"result": str(found.result), "report": str(found.report)})


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _track(folder: Path, ground_truth: Path | None, out: Path | None, every: int) -> None:
    from davatar.checks.tracking_score import score_table, score_track

    found = score_track(folder, ground_truth, out=out, every=every, progress=console.progress())
    console.table(*score_table(found))
    console.result(found)
