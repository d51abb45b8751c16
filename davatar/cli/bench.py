"""`davatar bench NAME`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from davatar.cli import console


def _names() -> list[str]:
    from davatar.checks.bench import BENCHES

    return list(BENCHES)


def command(
    name: Annotated[str, typer.Argument(help="head-model, ...", autocompletion=_names)],
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 1,
    seconds: Annotated[float, typer.Option(min=0, help="About how long one row may measure.")] = 10.0,
    resolution: Annotated[int, typer.Option(min=16, help="Samples per axis of surfaces.")] = 256,
    quick: Annotated[bool, typer.Option("--quick", help="Minutes less: smaller surfaces, fewer queries.")] = False,
    preset: Annotated[
        str, typer.Option(help="Of the avatar: tiny, published (needs a GPU), published-small.")
    ] = "tiny",
    device: Annotated[str, typer.Option(help="cpu, or cuda:0 and the like.")] = "cpu",
) -> None:
    """Time the straightforward way and ours side by side: medians and how many times better ours is."""
    from davatar.checks.bench import Options, bench

    if quick:
        seconds, resolution = min(seconds, 2.0), min(resolution, 64)
    options = Options(threads, seconds, resolution, device, quick, preset)
    rows = bench(name, options, console.progress())
    ratio = [None if row.ratio is None else f"{row.ratio:.2f}x" for row in rows]
    cells = [[row.what, row.plain, row.ours, row.unit, times, row.note] for row, times in zip(rows, ratio, strict=True)]
    console.table(["what", "plain", "ours", "unit", "better", ""], cells)
    console.result({"bench": name, "options": asdict(options), "rows": [asdict(row) for row in rows]})
