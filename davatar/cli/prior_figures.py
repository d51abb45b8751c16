"""Tables of what `davatar prior show --evaluate` and `davatar prior evaluate` found."""

from __future__ import annotations

from typing import Any

from davatar.cli import console

TITLES = {
    "codes": "codes (distances in standard deviations)",
    "meshes": "morphable meshes (vertex distance, mm)",
    "surfaces": "surfaces of the head model (chamfer distance, mm)",
    "training_neighbours": "nearest of 20000 training values (standard deviations)",
}


def show_figures(name: str, figures: dict[str, Any]) -> None:
    """What `evaluation.evaluate` returned."""
    for part, title in TITLES.items():
        if part in figures:
            _show_rows(f"{name}: {title}", figures[part])
    rows = [
        [reference, level, f"{pair['prior']:.4f}", f"{pair['gaussian']:.4f}"]
        for reference, levels in figures["loss"].items()
        for level, pair in levels.items()
    ]
    console.table(["denoising of", "noise level", "prior's loss", "Gaussian's loss"], rows, title=name)


def _show_rows(title: str, rows: dict[str, dict[str, float | None]]) -> None:
    names = [name for name in next(iter(rows.values())) if any(row[name] is not None for row in rows.values())]
    cells = [[row, *(f"{values[name]:.4f}" for name in names)] for row, values in rows.items()]
    console.table(["", *(name.replace("_", " ") for name in names)], cells, title=title)


def show_claims(claims: list[dict[str, Any]]) -> None:
    """What `evidence.gather_evidence` concluded."""
    rows = [[c["prior"], c["says"], c["figures"], "yes" if c["holds"] else "NO"] for c in claims]
    console.table(["prior", "claim", "prior / Gaussian", "holds"], rows)
