"""Training samples of the open head model, drawn on the fly from the morphable model.

A head is one identity under one expression. It gives pairs (a visible surface point with its
normal, in the posed and in the canonical head; training evaluates at point +- h * normal) and wide
points with their distance to the visible surface, near ones with their canonical partner. Pairs
rather than points on the surface, because a field that is merely small there looks accurate and
is flat. What other skin covers in the pose at hand (closed lips, the eye under a lid) is dropped:
nothing that sees the head can tell where it is. Head-model units; every draw is a function of the
generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from davatar.headmodel.ict_surface import MM, TeachingSurface, ray_hits, teaching_surface, view_directions
from davatar.headmodel.morphable import open_morphable

BOX = np.array([[-0.55, -0.65, -0.95], [0.55, 0.75, 0.5]])  # head-model units, where wide points are drawn
TREE_POINTS = 16000
_FRONT = np.array([d for d in view_directions(60) if d[2] > 0.7])  # where a scanner looks at the eyes from


@dataclass(frozen=True)
class HeadSamples:
    surface: np.ndarray  # [P, 3] float32, posed surface points
    normal: np.ndarray  # [P, 3] float32, posed, outward
    canonical: np.ndarray  # [P, 3] float32, the same skin points in the canonical pose
    canonical_normal: np.ndarray  # [P, 3] float32
    reach: np.ndarray  # [P] float32, largest half distance of a pair
    motion: np.ndarray  # [P] float32, how far the expression moved the point
    wide: np.ndarray  # [M, 3] float32, posed points anywhere
    distance: np.ndarray  # [M] float32, their signed distance to the visible surface
    partner: np.ndarray  # [M, 3] float32, canonical partner of near wide points
    has_partner: np.ndarray  # [M] bool


def sample_identities(count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, 100] coefficients as the model's publishers draw them: independent, standard normal."""
    return rng.standard_normal((count, 100))


@lru_cache(maxsize=1)
def _units() -> tuple[tuple[int, ...], ...]:
    """Expression shapes that move together: a left-right pair, or a single shape."""
    mirror = open_morphable().expression_mirror
    return tuple((k, int(m)) if m != k else (k,) for k, m in enumerate(mirror) if k <= m)


def sample_expressions(count: int, rng: np.random.Generator, faint: float = 0.25) -> np.ndarray:
    """[count, 53] weights in 0..1: a few shapes at once, many faint or one-sided, extra blinks and jaw openings.

    6 % are neutral, 40 % have one or two shapes, the rest two to seven; half of the paired shapes
    are one-sided; a share `faint` of the movements is a fifth as large; `mouthClose` never exceeds `jawOpen`.
    """
    index, units = open_morphable().expression_index, _units()
    out = np.zeros((count, 53))
    for row in out:
        kind = rng.random()
        if kind < 0.06:
            continue
        shapes = rng.integers(1, 3) if kind < 0.46 else rng.integers(2, 8)
        for unit in rng.choice(len(units), shapes, replace=False):
            amplitude = rng.uniform(0.08, 1.0) * (0.2 if rng.random() < faint else 1.0)
            sides = units[unit]
            if len(sides) == 2 and rng.random() < 0.5:
                sides = (sides[rng.integers(2)],)
            for side in sides:
                row[side] = np.clip(amplitude * rng.uniform(0.85, 1.15), 0, 1)
        if shapes > 1:
            if rng.random() < 0.35:
                row[[index["eyeBlink_L"], index["eyeBlink_R"]]] = np.clip(rng.random() + rng.normal(0, 0.05, 2), 0, 1)
            if rng.random() < 0.3:
                row[index["jawOpen"]] = rng.random()
        row[index["mouthClose"]] = min(row[index["mouthClose"]], row[index["jawOpen"]])
    return out


@lru_cache(maxsize=3)
def _cumulative(exponent: float) -> np.ndarray:
    """[F] running sum of area times density ** exponent over the visible triangles."""
    surface = teaching_surface()
    corners = surface.neutral[surface.triangles]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return np.cumsum(area * surface.density**exponent)


def _spots(exponent: float, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(triangle [n], barycentric [n, 3]) drawn by area times density ** exponent: 1 fine at lids and lips, 0 even."""
    share = _cumulative(exponent)
    triangle = np.searchsorted(share, rng.random(count) * share[-1]).clip(max=len(share) - 1)
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    return triangle, np.stack([1 - u, u * (1 - v), u * v], axis=1).astype(np.float32)


@lru_cache(maxsize=1)
def _landmark_spots():
    """Fixed spots whose posed positions stand for the surface in nearest-point searches."""
    rng = np.random.default_rng(0)
    fine, even = _spots(1.0, TREE_POINTS // 2, rng), _spots(0.0, TREE_POINTS - TREE_POINTS // 2, rng)
    return np.concatenate([fine[0], even[0]]), np.concatenate([fine[1], even[1]])


class PosedSurface:
    """Nearest-point queries against the visible skin and eyes of one posed head.

    What lies under the lids is found by nearest samples (cheap, misses a third of it) or, with
    `rays`, by looking from the front past everything around the eyes.
    """

    def __init__(self, surface: TeachingSurface, vertices: np.ndarray, rays: bool = False):
        self.surface, self.vertices, self.rays = surface, vertices, rays
        self.vertex_normals = surface.normals(vertices)
        triangle, barycentric = _landmark_spots()
        points, normals = self.at(triangle, barycentric)
        if rays:
            shown = ~self.hidden(triangle, points, normals)
            triangle, points, normals = triangle[shown], points[shown], normals[shown]
        eye = surface.is_eye[triangle]
        self.skin, self.skin_normals = cKDTree(points[~eye], balanced_tree=False), normals[~eye]
        open_ = np.full(eye.sum(), True) if rays else ~self.covered(points[eye], normals[eye])
        self.eyes, self.eye_normals = cKDTree(points[eye][open_], balanced_tree=False), normals[eye][open_]

    def at(self, triangle: np.ndarray, barycentric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and smooth unit normals [n, 3] of spots on the surface."""
        corners = self.surface.triangles[triangle]
        points = np.einsum("nk,nkc->nc", barycentric, self.vertices[corners])
        normals = np.einsum("nk,nkc->nc", barycentric, self.vertex_normals[corners])
        return points, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    def covered(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """[n] bool: eyeball points with skin close above them."""
        _, near = self.skin.query(points + 1.2 * MM * normals, k=6, distance_upper_bound=4 * MM)
        found = near < self.skin.n
        towards = self.skin.data[np.where(found, near, 0)] - points[:, None]
        above = np.einsum("nkc,nc->nk", towards, normals)
        aside = np.sqrt(np.maximum((towards**2).sum(-1) - above**2, 0))
        return (found & (above > 0.05 * MM) & (aside < 1.0 * MM)).any(axis=1)

    def hidden(self, triangle: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """[n] bool: spots under a lid; by rays, or for the eyeballs only by nearest samples."""
        out = np.zeros(len(points), bool)
        if not self.rays:
            eye = self.surface.is_eye[triangle]
            out[eye] = self.covered(points[eye], normals[eye])
            return out
        near = np.flatnonzero(self.surface.near_eye[triangle])
        facing = normals[near] @ _FRONT.T > 0.05
        row, view = np.nonzero(facing)
        start = points[near][row] + 0.05 * MM * normals[near][row]
        blockers = self.surface.all_triangles[self.surface.around_eyes]
        free = ray_hits(self.vertices, blockers, start, _FRONT[view]) < 0
        out[near] = np.bincount(row[free], minlength=len(near)) == 0
        return out

    def distance(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance [n] to the nearest visible sheet, and whether skin and eye agree on it [n] bool."""
        out = []
        for tree, normals in ((self.skin, self.skin_normals), (self.eyes, self.eye_normals)):
            if tree.n < 3:  # an eye all but shut: a stray sample is no surface, and there are no three neighbours
                continue
            length, near = tree.query(points, k=3)
            along = np.einsum("nkc,nkc->nk", points[:, None] - tree.data[near], normals[near])
            aside = np.sqrt(np.maximum(length[:, 0] ** 2 - along[:, 0] ** 2, 0))
            flat = np.where(aside < 3 * MM, np.abs(along[:, 0]), length[:, 0])  # between samples: to their plane
            sure = (np.sign(along) == np.sign(along[:, :1])) | (length > 1.5 * length[:, :1] + 1 * MM)
            out.append((np.sign(along[:, 0]) * flat, sure.all(axis=1), length[:, 0]))
        if len(out) == 1:
            return out[0][0], out[0][1]
        use = out[1][2] < out[0][2]
        return np.where(use, out[1][0], out[0][0]), np.where(use, out[1][1], out[0][1])

    def inside_other(self, points: np.ndarray) -> np.ndarray:
        """[n] bool: points just outside their own sheet that lie inside another one."""
        value, _ = self.distance(points)
        return value < -0.1 * MM


def by_motion(motion: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count] indices into motion [P], in proportion to it: a brow or a lid is a hundredth of the surface."""
    share = np.cumsum(motion + 1e-6, dtype=np.float64)
    return np.searchsorted(share, rng.random(count) * share[-1]).clip(max=len(motion) - 1)


def _choose(good: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices among the good ones, each at most once if there are enough."""
    index = np.flatnonzero(good)
    return index[:count] if len(index) >= count else np.concatenate([index, rng.choice(index, count - len(index))])


def _wide_points(posed: PosedSurface, canonical: PosedSurface, count: int, rng: np.random.Generator):
    """Half along normals (with canonical partners), the rest in a shell, far outside members, and in the box."""
    total = int(count * 1.4)
    counts = np.array([0.5, 0.2, 0.15]) * total
    near_count, shell_count, outer_count = counts.astype(int)
    spots = _spots(0.5, near_count, rng)
    (points, normals), (rest, rest_normals) = posed.at(*spots), canonical.at(*spots)
    along = rng.normal(0, 5 * MM, near_count)[:, None]
    near, partner = points + along * normals, rest + along * rest_normals
    shell = posed.at(*_spots(0.0, shell_count, rng))[0] + rng.normal(0, 15 * MM, (shell_count, 3))
    base, out = posed.at(*_spots(0.0, outer_count, rng))
    away = out + 0.6 * rng.standard_normal(out.shape)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    outer = base + rng.uniform(15, 110, outer_count)[:, None] * MM * away
    box = rng.uniform(BOX[0], BOX[1], (total - near_count - shell_count - outer_count, 3))
    wide = np.concatenate([near, shell, outer, box])
    distance, sure = posed.distance(wide)
    has = np.arange(len(wide)) < near_count
    wanted = along[:, 0]
    sure[:near_count] &= np.abs(distance[:near_count] - wanted) < 0.3 * MM + 0.15 * np.abs(wanted)
    sure &= (wide[:, 1] > BOX[0, 1]) | has
    partner = np.concatenate([partner, np.zeros((len(wide) - near_count, 3))])
    order = rng.permutation(len(wide))
    pick = order[_choose(sure[order], count, rng)]
    return wide[pick], distance[pick], partner[pick], has[pick]


def sample_head(
    vertices: np.ndarray,
    rest: np.ndarray,
    neutral: np.ndarray,
    pairs: int,
    wide: int,
    rng: np.random.Generator,
    rays: bool = False,
) -> HeadSamples:
    """
    Args:
        vertices, rest, neutral: [V, 3] the head in its pose, in the canonical pose and without expression.
        pairs, wide: how many samples of either kind.
        rays: tell by rays what the lids hide.
    """
    surface = teaching_surface()
    posed = PosedSurface(surface, vertices, rays)
    canonical = posed if rest is vertices else PosedSurface(surface, rest)
    triangle, barycentric = _spots(1.0, int(pairs * 1.5), rng)
    (points, normals), (at_rest, rest_normals) = posed.at(triangle, barycentric), canonical.at(triangle, barycentric)
    fine = surface.density[triangle] >= 4.0
    good = ~posed.inside_other(points + 0.75 * MM * normals) & ~posed.hidden(triangle, points, normals)
    pick = _choose(good, pairs, rng)
    corners, share = surface.triangles[triangle[pick]], barycentric[pick]
    motion = np.einsum("nk,nkc->nc", share, (vertices - neutral)[corners])
    far, distance, partner, has = _wide_points(posed, canonical, wide, rng)
    return HeadSamples(
        surface=points[pick].astype(np.float32),
        normal=normals[pick].astype(np.float32),
        canonical=at_rest[pick].astype(np.float32),
        canonical_normal=rest_normals[pick].astype(np.float32),
        reach=np.where(fine, 0.6 * MM, 1.75 * MM)[pick].astype(np.float32),
        motion=np.linalg.norm(motion, axis=1).astype(np.float32),
        wide=far.astype(np.float32),
        distance=distance.astype(np.float32),
        partner=partner.astype(np.float32),
        has_partner=has,
    )


def sample_heads(
    identity: np.ndarray,
    expression: np.ndarray | None,
    pairs: int,
    wide: int,
    rng: np.random.Generator,
    rays: bool = False,
) -> list[HeadSamples]:
    """One `HeadSamples` per row of [n, 100] and [n, 53] coefficients; no expression means the canonical pose."""
    surface = teaching_surface()
    rest = surface.vertices(identity, np.broadcast_to(surface.canonical_expression, (len(identity), 53)))
    if expression is None:
        return [sample_head(v, v, v, pairs, wide, rng, rays) for v in rest]
    posed = surface.vertices(identity, expression)
    neutral = surface.vertices(identity, np.zeros((len(identity), 53)))
    return [sample_head(v, r, n, pairs, wide, rng, rays) for v, r, n in zip(posed, rest, neutral, strict=True)]
