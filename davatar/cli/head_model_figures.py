"""Tables of what `davatar prior show MODEL --evaluate` found about a head model."""

from __future__ import annotations

from typing import Any

from davatar.cli import console

KINDS = {"given": "codes given", "fitted": "codes fitted from the mean neutral head"}
BY_REGION = {"normal_consistency": "normals", "f_score_1mm": "F at 1 mm", "chamfer_mm": "both ways, mm"}


def show_figures(figures: dict[str, Any]) -> None:
    """What `evaluate.evaluate_open` returned."""
    for kind, title in KINDS.items():
        if kind not in figures:
            continue
        found = figures[kind]
        for way in ("truth_to_prediction_mm", "prediction_to_truth_mm"):
            rows = [[region, f"{v['mean']:.3f}", f"{v['p95']:.3f}"] for region, v in found[way].items()]
            console.table([way.replace("_", " "), "mean", "95 %"], rows, title=title)
        regions = list(found["chamfer_mm"])
        rows = [[label, *(f"{found[key][region]:.3f}" for region in regions)] for key, label in BY_REGION.items()]
        console.table(["", *regions], rows, title=title)
    console.table(["steepness of the field", ""], [[k, f"{v:.3f}"] for k, v in figures["steepness"].items()])
    rows = [[move, *(f"{share:.2f}" for share in shares.values())] for move, shares in figures["movements"].items()]
    console.table(["share of the true movement", "at 100 %", "at 10 %"], rows)
    rows = [[str(figures["floating_pieces"]), str(figures["heads"])]]
    if "islands" in figures:
        rows.append([str(figures["islands"]["pieces"]), str(figures["islands"]["heads"])])
    console.table(["floating pieces", "heads"], rows)
