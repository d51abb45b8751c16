"""`davatar verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from davatar.cli import console
from davatar.core.errors import DataError, VerificationError


def command(
    folder: Annotated[Path, typer.Argument(help="folder of golden fixtures, or one above several")],
    device: Annotated[str, typer.Option(help="where networks are evaluated: cpu, cuda, cuda:1, mps")] = "cpu",
    only: Annotated[str | None, typer.Option(metavar="SECTION", help="a section's letter (A) or name (dphm A)")] = None,
) -> None:
    """Recompute known numbers with this installation and this device: the largest error of each, and what is tolerated.

    Exit code 5 if one is exceeded; files that are damaged or not recognised are named.
    """
    from davatar.checks.verify.run import verify

    done = verify(folder, device, only, console.progress())
    rows = [
        [fixture.section, one.fixture, one.quantity, *_numbers(one), "" if one.holds else "EXCEEDED"]
        for fixture in done.fixtures
        for one in fixture.comparisons
    ]
    console.table(["section", "fixture", "quantity", "largest error", "tolerance", ""], rows)
    if done.damaged:
        console.table(["could not be recomputed", "why"], [list(item) for item in done.damaged.items()])
    if done.unrecognised:
        console.table(["not recognised"], [[name] for name in done.unrecognised])
    held = len(rows) - len(done.exceeded)
    console.result(
        done.as_dict(), f"{held} of {len(rows)} quantities in {len(done.fixtures)} fixtures hold on {device}"
    )
    if done.exceeded:
        worst = done.exceeded[0]
        raise VerificationError(
            f"{len(done.exceeded)} of {len(rows)} quantities differ more than tolerated, {worst.quantity} first",
            file=worst.fixture,
            mend="see the table above",
        )
    if done.damaged:
        name, reason = next(iter(done.damaged.items()))
        more = f" (and {len(done.damaged) - 1} more)" if len(done.damaged) > 1 else ""
        raise DataError(f"{reason}{more}", file=folder / name)


def _numbers(one) -> tuple[str, str]:
    unit = " of the largest" if one.relative else ""
    return f"{one.error:.1e}", f"{one.tolerance:.0e}{unit}"
