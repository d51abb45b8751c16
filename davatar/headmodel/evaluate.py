"""How faithful the open head model is: its surfaces against the morphable heads whose codes it is given.

Heads it never saw (new draws of identity and expression). Distances in mm: from points of the true
visible surface to the predicted one, by Newton steps along the field's gradient, and from what can
be seen of the predicted mesh back to the truth. Besides distances: the field's steepness (1 for a
distance), how much of a movement arrives (blink, one brow, ...), and pieces that float.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from davatar.core.progress import Progress, silent
from davatar.geometry.mesh import Mesh, vertex_normals
from davatar.geometry.surface import largest_component
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_samples import sample_expressions, sample_identities
from davatar.headmodel.ict_surface import MM, seen_triangles, teaching_surface, view_directions
from davatar.headmodel.morphable import open_morphable

NECK = -0.52  # head-model units: what lies lower is the cut
FACE_VERTICES = 6706  # the morphable model's first vertices are its face
VIEWS = 24
MOVEMENTS = {
    "blink": {"eyeBlink": 1.0},
    "one blink": {"eyeBlink_L": 1.0},
    "one inner brow up": {"browInnerUp_L": 1.0},
    "brows up": {"browInnerUp": 1.0, "browOuterUp": 1.0},
    "brows down": {"browDown": 1.0},
    "nose sneer": {"noseSneer": 1.0},
    "smile": {"mouthSmile": 1.0},
    "one smile": {"mouthSmile_R": 1.0},
    "jaw open": {"jawOpen": 1.0},
    "pucker": {"mouthPucker": 1.0},
    "cheek puff": {"cheekPuff": 1.0},
}


@dataclass(frozen=True)
class TrueSurface:
    points: np.ndarray  # [n, 3] head-model units, visible, above the neck cut
    normals: np.ndarray  # [n, 3]
    regions: dict[str, np.ndarray]  # name -> [n] bool


def _region_of_triangles() -> dict[str, np.ndarray]:
    surface, model = teaching_surface(), open_morphable()
    corners = surface.vertex[surface.all_triangles]
    lips, lids = np.zeros(len(model.neutral), bool), np.zeros(len(model.neutral), bool)
    lips[model.sets["lips"]] = lids[model.sets["eyelids"]] = True
    eye = model.in_regions("eyeball_left", "eyeball_right")[corners].all(axis=1)
    bag = model.in_regions("mouth_socket")[corners].any(axis=1)
    return {
        "face": ((corners < FACE_VERTICES).all(axis=1) | eye) & ~bag,
        "head": ~bag,
        "lips": lips[corners].all(axis=1) & ~bag,
        "eyes": lids[corners].any(axis=1) | eye,
        "mouth bag": bag,
    }


def true_surface(vertices: np.ndarray, count: int, rng: np.random.Generator) -> TrueSurface:
    """`count` area-even samples of what is visible of a morphable head [V, 3] (head-model units) from around it."""
    surface = teaching_surface()
    triangles = surface.all_triangles
    corners = vertices[triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(cross, axis=1)
    seen = seen_triangles(vertices, triangles, view_directions(VIEWS)) & (corners[:, :, 1].min(axis=1) > NECK)
    share = np.cumsum(length * seen)
    chosen = np.searchsorted(share, rng.random(count) * share[-1])
    u, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    barycentric = np.concatenate([1 - u, u * (1 - v), u * v], axis=1)
    points = np.einsum("nk,nkc->nc", barycentric, corners[chosen])
    regions = {name: inside[chosen] for name, inside in _region_of_triangles().items()}
    return TrueSurface(points, cross[chosen] / length[chosen, None], regions)


def project(
    model: HeadModel, points: np.ndarray, identity: Tensor, expression: Tensor, steps: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Distance from points [N, 3] to the predicted surface, and the field's steepness at them.

    Newton steps along the gradient, none longer than 7.5 mm.

    Returns:
        distance [N] in head-model units; steepness [N] = norm of the gradient at the start.
    """
    start = torch.from_numpy(points.astype(np.float32))
    x, steepness = start.clone(), None
    for _ in range(steps):
        parts = []
        for part in x.split(4096):
            part = part.clone().requires_grad_()
            value = model.sdf(part, identity, expression)
            (gradient,) = torch.autograd.grad(value.sum(), part)
            parts.append((value.detach(), gradient))
        value, gradient = (torch.cat(column) for column in zip(*parts, strict=True))
        norm = gradient.norm(dim=-1)
        steepness = norm if steepness is None else steepness
        step = (value / norm.clamp_min(1e-3)).clamp(-7.5 * MM, 7.5 * MM)
        x = x - step[:, None] * gradient / norm.clamp_min(1e-3)[:, None]
    return (x - start).norm(dim=-1).numpy(), steepness.numpy()


def _summary(values: list[np.ndarray]) -> dict[str, float]:
    joined = np.concatenate(values) / MM
    return {"mean": float(joined.mean()), "p95": float(np.percentile(joined, 95))}


def _towards_truth(mesh: Mesh, truth: TrueSurface) -> dict[str, np.ndarray]:
    """Per region: distance of the predicted mesh's visible vertices to the plane of the nearest true sample."""
    seen = seen_triangles(mesh.vertices, mesh.triangles, view_directions(VIEWS))
    vertices = mesh.vertices[np.unique(mesh.triangles[seen])]
    vertices = vertices[vertices[:, 1] > NECK + 5 * MM]
    length, near = cKDTree(truth.points).query(vertices)
    along = np.abs(np.einsum("nc,nc->n", vertices - truth.points[near], truth.normals[near]))
    distance = np.where(length < 3 * MM, along, length)
    return {name: distance[inside[near]] for name, inside in truth.regions.items() if name in ("face", "head")}


def follow_points(model: HeadModel, canonical: Tensor, start: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
    """Posed points [N, 3] whose canonical points are `canonical` [N, 3], by Newton from `start` [N, 3]."""
    x = start.clone()
    for _ in range(8):
        x = x.detach().requires_grad_()
        image = model.to_canonical(x, identity, expression)[..., :3]
        rows = [torch.autograd.grad(image[:, c].sum(), x, retain_graph=c < 2)[0] for c in range(3)]
        jacobian = torch.stack(rows, dim=1) + 1e-4 * torch.eye(3)
        step = torch.linalg.solve(jacobian, (image - canonical)[..., None])[..., 0].detach()
        x = x.detach() - step * (4 * MM / step.norm(dim=-1, keepdim=True).clamp_min(4 * MM))
    return x.detach()


def movement_shares(model: HeadModel, identity: np.ndarray, amount: float) -> dict[str, float]:
    """Share of each true movement that the model makes at `amount` of it; mean over the vertices that move most.

    Args:
        identity: [100] coefficients.
    """
    surface, morphable, out = teaching_surface(), open_morphable(), {}
    visible = np.zeros(len(surface.neutral), bool)
    visible[surface.triangles[~(surface.is_bag | surface.is_eye)]] = True
    neutral = surface.vertices(identity[None], np.zeros((1, 53)))[0]
    who, rest = model.codes(identity, np.zeros(53))
    for name, weights in MOVEMENTS.items():
        coefficients = amount * morphable.weights(**weights)
        motion = surface.vertices(identity[None], coefficients[None])[0] - neutral
        size = np.linalg.norm(motion, axis=1) * visible
        chosen = np.flatnonzero(size > 0.6 * size.max())
        chosen = chosen[:: 1 + len(chosen) // 150]
        before = torch.from_numpy(neutral[chosen])
        wanted = torch.from_numpy(motion[chosen])
        with torch.no_grad():
            canonical = model.to_canonical(before, who, rest)[..., :3]
        after = follow_points(model, canonical, before + wanted, who, model.codes(identity, coefficients)[1])
        share = ((after - before) * wanted).sum(-1) / (wanted**2).sum(-1)
        out[name] = float(share.mean())
    return out


def count_pieces(model: HeadModel, identity: Tensor, expression: Tensor, resolution: int = 96) -> int:
    """Pieces of the surface that float outside the head: not the largest, and further than 2 mm outside its skin."""
    whole = model.mesh(identity, expression, resolution, keep_components=True)
    vertices, triangles, found = whole.vertices.astype(float), whole.triangles, 0
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


def evaluate_open(
    model: HeadModel | str | Path = "open",
    identities: int = 5,
    expressions: int = 3,
    points: int = 8000,
    seed: int = 20_000,
    sheet: str | Path | None = None,
    progress: Progress = silent,
) -> dict:
    """Fidelity of a head model with code maps on heads drawn anew, its codes given.

    Args:
        model: the model, or what `HeadModel.from_pretrained` takes.
        identities, expressions: heads = identities x expressions; movements are judged on three identities.
        sheet: where to write a contact sheet (PNG) of true and predicted heads.

    Returns:
        "truth_to_prediction_mm" and "prediction_to_truth_mm": region -> mean, p95; "steepness": region -> mean;
        "movements": name -> share at 100 % and 10 %; "floating_pieces" over all heads; "heads"; "model_hash".
    """
    model = model if isinstance(model, HeadModel) else HeadModel.from_pretrained(model)
    rng, surface = np.random.default_rng(seed), teaching_surface()
    who = sample_identities(identities, rng)
    forward: dict[str, list] = {}
    backward: dict[str, list] = {}
    steep: dict[str, list] = {}
    floating = 0
    with progress.task("heads", identities * expressions) as task:
        for identity in who:
            for weights in _several_shapes(expressions, rng):
                vertices = surface.vertices(identity[None], weights[None])[0]
                truth = true_surface(vertices, points, rng)
                codes = model.codes(identity, weights)
                distance, steepness = project(model, truth.points, *codes)
                for name, inside in truth.regions.items():
                    forward.setdefault(name, []).append(distance[inside])
                    steep.setdefault(name, []).append(steepness[inside])
                dense = true_surface(vertices, 5 * points, rng)
                for name, values in _towards_truth(model.mesh(*codes, 128), dense).items():
                    backward.setdefault(name, []).append(values)
                floating += count_pieces(model, *codes)
                task.advance()
    moves = [{amount: movement_shares(model, one, amount) for amount in (1.0, 0.1)} for one in who[:3]]
    if sheet is not None:
        from davatar.headmodel.contact_sheet import write_contact_sheet

        write_contact_sheet(sheet, model, who[0])
    return {
        "heads": identities * expressions,
        "truth_to_prediction_mm": {name: _summary(values) for name, values in forward.items()},
        "prediction_to_truth_mm": {name: _summary(values) for name, values in backward.items()},
        "steepness": {name: float(np.concatenate(values).mean()) for name, values in steep.items()},
        "movements": {
            name: {f"{amount:.0%}": float(np.mean([m[amount][name] for m in moves])) for amount in (1.0, 0.1)}
            for name in MOVEMENTS
        },
        "floating_pieces": floating,
        "model_hash": model.hash,
    }


def _several_shapes(count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 53] random expressions with two shapes or more each."""
    found: list[np.ndarray] = []
    while len(found) < count:
        found += [row for row in sample_expressions(4, rng) if (row > 0).sum() >= 2]
    return np.array(found[:count])
