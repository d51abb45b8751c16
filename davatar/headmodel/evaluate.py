"""How faithful the open head model is: its surfaces against morphable heads it never saw.

New draws of identity and expression; the model gets their codes, or has to find codes for their
surfaces from the mean neutral head. Besides distances both ways (mm): how well normals agree, the
F-score at 1 mm, the field's steepness (1 for a distance), how much of a movement arrives (blink, one
brow, ...), and pieces that float.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from torch import Tensor

from davatar.core.errors import UsageError
from davatar.core.progress import Progress, silent
from davatar.geometry.mesh import Mesh, vertex_normals
from davatar.geometry.surface import largest_component
from davatar.headmodel.code_fit import fit_coefficients
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_samples import sample_expressions, sample_identities
from davatar.headmodel.ict_surface import MM, teaching_surface
from davatar.headmodel.movements import AMOUNTS, MOVEMENTS, movement_shares
from davatar.headmodel.true_surface import (
    Comparison,
    TrueSurface,
    towards_prediction,
    towards_truth,
    true_surface,
)

CLOSE = 1 * MM  # of the F-score
FIT_POINTS, FIT_FACE = 2200, 0.6  # surface points a fit sees, and which share of them lies on the face
MOVERS = 3  # identities whose movements are judged
BOTH_WAYS = ("face", "head")


class _Scores:
    """Comparisons of all heads, and what they come to."""

    def __init__(self):
        self.forward: list[Comparison] = []
        self.backward: list[Comparison] = []

    def add(self, forward: Comparison, backward: Comparison) -> None:
        self.forward.append(forward)
        self.backward.append(backward)

    def figures(self) -> dict:
        forward = {name: _of_region(self.forward, name) for name in self.forward[0].regions}
        backward = {name: _of_region(self.backward, name) for name in BOTH_WAYS}
        return {
            "truth_to_prediction_mm": {name: _summary(away) for name, (away, _) in forward.items() if len(away)},
            "prediction_to_truth_mm": {name: _summary(away) for name, (away, _) in backward.items() if len(away)},
            "chamfer_mm": {n: _middle(forward[n][0], backward[n][0]) / MM for n in BOTH_WAYS},
            "normal_consistency": {n: _middle(forward[n][1], backward[n][1]) for n in BOTH_WAYS},
            "f_score_1mm": {n: f_score(forward[n][0], backward[n][0]) for n in BOTH_WAYS},
        }


def _of_region(heads: list[Comparison], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances and cosines of a region over all heads."""
    away = np.concatenate([head.away[head.regions[name]] for head in heads])
    return away, np.concatenate([head.cosine[head.regions[name]] for head in heads])


def _summary(away: np.ndarray) -> dict[str, float]:
    return {"mean": float(away.mean() / MM), "p95": float(np.percentile(away, 95) / MM)}


def _middle(forward: np.ndarray, backward: np.ndarray) -> float:
    """Mean of the means of both directions."""
    return float(forward.mean() + backward.mean()) / 2


def f_score(forward: np.ndarray, backward: np.ndarray, close: float = CLOSE) -> float:
    """Harmonic mean of the shares of either surface that lie within `close` of the other."""
    recall, precision = float((forward < close).mean()), float((backward < close).mean())
    return 2 * precision * recall / max(precision + recall, 1e-12)


def floating_pieces(mesh: Mesh) -> int:
    """Pieces of a surface that float outside the head: not the largest, and further than 2 mm outside its skin."""
    vertices, triangles, found = mesh.vertices.astype(float), mesh.triangles, 0
    main, main_triangles = largest_component(vertices, triangles)
    tree = cKDTree(main)
    normals = vertex_normals(main, main_triangles)
    rest = np.flatnonzero(tree.query(vertices)[0] > 1e-9)
    while len(rest):
        keep = np.zeros(len(vertices), bool)
        keep[rest] = True
        number = np.cumsum(keep) - 1
        piece, _ = largest_component(vertices[rest], number[triangles[keep[triangles[:, 0]]]])
        _, near = tree.query(piece)
        outside = np.einsum("nc,nc->n", piece - main[near], normals[near])
        found += int(np.median(outside) > 2 * MM)
        rest = rest[cKDTree(piece).query(vertices[rest])[0] > 1e-9]
    return found


def count_pieces(model: HeadModel, identity: Tensor, expression: Tensor, resolution: int = 96) -> int:
    """`floating_pieces` of the head of these codes."""
    return floating_pieces(model.mesh(identity, expression, resolution, keep_components=True))


def heads_with_islands(
    model: HeadModel, heads: int, seed: int, resolution: int = 96, progress: Progress = silent
) -> dict[str, int]:
    """Draw random heads and count those with floating pieces: "heads", "with_islands", "pieces"."""
    rng = np.random.default_rng([seed, 1])
    found = []
    with progress.task("islands", heads) as task:
        for who, what in zip(sample_identities(heads, rng), _several_shapes(heads, rng), strict=True):
            found.append(count_pieces(model, *model.codes(who, what), resolution))
            task.advance()
    return {"heads": heads, "with_islands": int(np.count_nonzero(found)), "pieces": int(sum(found))}


def evaluate_open(
    model: HeadModel | str | Path = "open",
    identities: int = 5,
    expressions: int = 3,
    points: int = 8000,
    seed: int = 20_000,
    sheet: str | Path | None = None,
    progress: Progress = silent,
    fitted: bool = True,
    islands: int = 0,
    resolution: int = 128,
) -> dict:
    """Fidelity of a head model with code maps on heads drawn anew.

    Args:
        model: the model, or what `HeadModel.from_pretrained` takes.
        identities, expressions: heads = identities x expressions; movements are judged on three identities.
        points: true points per head.
        sheet: where to write a contact sheet (PNG) of true and predicted heads.
        fitted: also find codes for each surface and judge the head of those.
        islands: random heads searched for floating pieces besides.
        resolution: of the predicted meshes.

    Returns:
        "given" and "fitted", each: "truth_to_prediction_mm" and "prediction_to_truth_mm" (region -> mean, p95),
        "chamfer_mm", "normal_consistency" (mean cosine both ways) and "f_score_1mm" by region; "steepness": region ->
        mean; "movements": name -> share at 100 % and 10 %; "floating_pieces" over all heads; "islands" if asked;
        "heads"; "model_hash".

    Raises:
        UsageError: the model has no code maps, as published ones.
    """
    model = model if isinstance(model, HeadModel) else HeadModel.from_pretrained(model)
    if model.maps is None:
        found = "has no codes of the morphable heads that it would be measured on"
        raise UsageError(found, file=model.name, mend="measure `open`, or a model that `davatar prior train nphm` made")
    rng, surface = np.random.default_rng(seed), teaching_surface()
    who = sample_identities(identities, rng)
    scores = {"given": _Scores()} | ({"fitted": _Scores()} if fitted else {})
    steep: dict[str, list[np.ndarray]] = {}
    floating = 0
    with progress.task("heads", identities * expressions * len(scores)) as task:
        for identity in who:
            for weights in _several_shapes(expressions, rng):
                truth = true_surface(surface.vertices(identity[None], weights[None])[0], points, rng)
                codes = model.codes(identity, weights)
                forward, steepness, pieces, backward = _compared(model, truth, codes, resolution)
                scores["given"].add(forward, backward)
                floating += pieces
                for name, inside in truth.regions.items():
                    steep.setdefault(name, []).append(steepness[inside])
                task.advance()
                if fitted:
                    codes = model.codes(*fit_coefficients(model, *_fit_points(truth, rng)))
                    forward, _, _, backward = _compared(model, truth, codes, resolution)
                    scores["fitted"].add(forward, backward)
                    task.advance()
    with progress.task("movements", min(identities, MOVERS) * len(AMOUNTS)) as task:
        moves: dict[float, list[dict[str, float]]] = {amount: [] for amount in AMOUNTS}
        for identity in who[:MOVERS]:
            for amount in AMOUNTS:
                moves[amount].append(movement_shares(model, identity, amount))
                task.advance()
    if sheet is not None:
        from davatar.headmodel.contact_sheet import write_contact_sheet

        write_contact_sheet(sheet, model, who[0])
    found = {kind: score.figures() for kind, score in scores.items()} | {
        "heads": identities * expressions,
        "steepness": {n: float(joined.mean()) for n, v in steep.items() if len(joined := np.concatenate(v))},
        "movements": {
            name: {f"{amount:.0%}": float(np.mean([each[name] for each in moves[amount]])) for amount in AMOUNTS}
            for name in MOVEMENTS
        },
        "floating_pieces": floating,
        "model_hash": model.hash,
    }
    return found | ({"islands": heads_with_islands(model, islands, seed, progress=progress)} if islands else {})


def _compared(
    model: HeadModel, truth: TrueSurface, codes: tuple[Tensor, Tensor], resolution: int
) -> tuple[Comparison, np.ndarray, int, Comparison]:
    """Truth to prediction, steepness, floating pieces, prediction to truth."""
    forward, steepness = towards_prediction(model, truth, *codes)
    whole = model.mesh(*codes, resolution, keep_components=True)
    backward = towards_truth(Mesh(*largest_component(whole.vertices, whole.triangles)), truth)
    return forward, steepness, floating_pieces(whole), backward


def _fit_points(truth: TrueSurface, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals that a fit sees: the whole visible head but the mouth's inside, the face denser."""
    face = np.flatnonzero(truth.regions["face"])
    rest = np.flatnonzero(truth.regions["head"] & ~truth.regions["face"])
    counts = min(len(face), round(FIT_FACE * FIT_POINTS)), min(len(rest), round((1 - FIT_FACE) * FIT_POINTS))
    parts = [rng.choice(among, n, replace=False) for among, n in zip((face, rest), counts, strict=True)]
    chosen = np.concatenate(parts)
    return truth.points[chosen], truth.normals[chosen]


def _several_shapes(count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 53] random expressions with two shapes or more each."""
    found: list[np.ndarray] = []
    while len(found) < count:
        found += [row for row in sample_expressions(4, rng) if (row > 0).sum() >= 2]
    return np.array(found[:count])
