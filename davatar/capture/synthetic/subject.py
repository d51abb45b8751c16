"""`Subject`: one synthetic person, geometry and paint, and `Posed`: that person at one instant.

The geometry is the linear head model plus the thickness of hair and beard; the paint is made once on the
template's lattice. Head frame (morphable frame), metres; studio world, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from davatar.capture.synthetic import hair, skin, wrinkles
from davatar.capture.synthetic.eyes import eye_center, fit_eyes, gaze_rotation
from davatar.capture.synthetic.noise import noise, smoothstep
from davatar.capture.synthetic.template import CM, SKIN, Head, Lattice, Samples, Template, template_of
from davatar.capture.synthetic.traits import Traits, sample_traits
from davatar.core.errors import DataError
from davatar.geometry.mesh import Mesh, vertex_normals

DETAIL = 0.08  # cm between paint samples


@dataclass(frozen=True)
class Paint:
    """What the lattice carries, [S, ...] in linear RGB and template centimetres."""

    values: np.ndarray  # [S, 13] float32: albedo 3, gloss, slope 3, crease, crease slope 3, flush, hair cover
    group: np.ndarray  # [S] int8, wrinkle group or -1


@dataclass(frozen=True)
class Subject:
    template: Template
    traits: Traits
    identity: np.ndarray  # [100] coefficients of the head model
    neutral: np.ndarray  # [V, 3] float32 m, head frame, hair included
    lattice: Lattice
    paint: Paint
    detail: float  # cm between paint samples
    seed: int

    @staticmethod
    def sample(model: Head, seed: int, *, spread: float = 0.8, detail: float = DETAIL, hair_on: bool = True) -> Subject:
        """A new person.

        Args:
            model: the linear head model (`davatar.headmodel.morphable.open_morphable()`).
            seed: the same seed is the same person, to the last freckle.
            spread: standard deviation of the identity coefficients.
            detail: cm between paint samples; 0.05 for close-ups, 0.12 is enough for 128-pixel pictures.
            hair_on: False leaves hair and beard off the geometry (they are still painted).
        """
        rng = np.random.default_rng([seed, 7])
        identity = np.clip(rng.normal(0, spread, len(model.identity)), -2, 2).astype(np.float32)
        return Subject.make(model, identity, sample_traits(rng), seed, detail=detail, hair_on=hair_on)

    @staticmethod
    def make(
        model: Head, identity: np.ndarray, traits: Traits, seed: int, *, detail: float = DETAIL, hair_on: bool = True
    ) -> Subject:
        """A person with given identity coefficients [100] and traits; `seed` places the moles."""
        template = template_of(model)
        identity = np.asarray(identity, np.float32)
        if identity.shape != (len(model.identity),) or not np.isfinite(identity).all():
            raise DataError(f"identity has shape {identity.shape}, expected ({len(model.identity)},) finite numbers")
        bald = model.neutral + np.tensordot(identity, model.identity, axes=1)
        thickness = hair.thickness(template, traits) / CM if hair_on else np.zeros(len(bald))
        neutral = bald + thickness[:, None] * vertex_normals(bald, template.triangles)
        fit_eyes(template, neutral)
        lattice = template.lattice(detail)
        paint = _paint(template, lattice, traits, np.random.default_rng([seed, 8]))
        return Subject(template, traits, identity, neutral.astype(np.float32), lattice, paint, detail, seed)

    def vertices(self, weights: np.ndarray) -> np.ndarray:
        """[V, 3] float32 m, head frame, eyeballs looking straight ahead."""
        weights = np.asarray(weights, np.float32)
        if weights.shape != (len(self.template.model.expression),) or not np.isfinite(weights).all():
            raise DataError(f"expression weights have shape {weights.shape}, expected [53] finite numbers")
        return self.neutral + np.tensordot(weights, self.template.model.expression, axes=1)

    def pose(self, weights: np.ndarray, gaze: np.ndarray) -> Posed:
        """The person at one instant; film it from any number of cameras with `view.film`."""
        return Posed(self, np.asarray(weights, np.float32), np.asarray(gaze, np.float64))

    def condition_mesh(self, weights: np.ndarray, head_to_world: np.ndarray | None = None) -> Mesh:
        """What a perfect depth tracker would know: no teeth, gums or tongue, eyeballs that do not turn.

        Args:
            weights: [53].
            head_to_world: [4, 4] rigid, head frame to world; identity if None.

        Returns:
            Mesh with all V vertices of the model in world metres (some unused) and `canonical` [V, 3] the
            template coordinates in head-model units; cut at the neck like the pictures.
        """
        pose = np.eye(4) if head_to_world is None else np.asarray(head_to_world, np.float64)
        world = self.vertices(weights) @ pose[:3, :3].T + pose[:3, 3]
        triangles = self.template.triangles[self.template.seen_by_depth]
        return Mesh(world, triangles, self.template.model.template)


class Posed:
    """One person, one expression, one gaze: geometry in the head frame with its search tree.

    Fields: `vertices` [V, 3] m; `attributes` [V, 10] float32: vertices, normals, template points (cm), openness;
    `turn` [3, 3] of the eyeballs; `creases` [G, 2] and `blush` [2] by side; `scene` embree.
    """

    def __init__(self, subject: Subject, weights: np.ndarray, gaze: np.ndarray):
        template = subject.template
        self.subject = subject
        vertices = subject.vertices(weights)
        self.turn = turn = gaze_rotation(gaze).astype(np.float32)
        for eye in template.eyes:
            center = eye_center(template, eye, vertices)
            vertices[eye.vertices] = (vertices[eye.vertices] - center) @ turn.T + center
        self.vertices = vertices
        normals = vertex_normals(vertices, template.triangles)
        fields = [vertices, normals, template.points, template.openness[:, None]]
        self.attributes = np.concatenate(fields, axis=1).astype(np.float32)
        names = template.model.expression_names
        self.creases = wrinkles.amounts(weights, names, subject.traits.age)
        self.blush = wrinkles.blush(weights, names)
        self.scene = EmbreeScene(robust=True)  # robust: no ray slips between two triangles of one edge
        TriangleMesh(self.scene, vertices, template.triangles)

    @property
    def used(self) -> np.ndarray:
        """[N] vertices that any drawn triangle uses."""
        return self.subject.template.used

    @property
    def landmarks(self) -> np.ndarray:
        """[68, 3] m, head frame."""
        return self.vertices[self.subject.template.model.landmarks]


_BLOCK = 1 << 15  # samples painted at a time, so that intermediate arrays stay in the processor's cache


def _paint(template: Template, lattice: Lattice, traits: Traits, rng: np.random.Generator) -> Paint:
    moles = skin.place_moles(lattice.samples, traits, rng)
    count = len(lattice.samples)
    values, height, group = np.empty((count, 13), np.float32), np.empty(count, np.float32), np.empty(count, np.int8)
    for start in range(0, count, _BLOCK):
        rows = slice(start, start + _BLOCK)
        values[rows], height[rows], group[rows] = _paint_block(lattice.samples[rows], template, traits, moles)
    values[:, 4:7] = lattice.slope(height)
    return Paint(values, group)


def _paint_block(
    samples: Samples, template: Template, traits: Traits, moles: list[skin.Mole]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint values (slope of the relief left out), height of the relief [S] cm and wrinkle group of some samples."""
    p, outer = samples.points, samples.part == SKIN
    albedo, gloss, flush = skin.paint_skin(samples, template, traits, moles)
    scalp = outer * hair.scalp_cover(p, samples.ear, traits)
    beard = outer * hair.beard_cover(p, template, traits)
    brow = outer * hair.brow_cover(p, template, traits)
    height = skin.relief(p, traits) * (1 - scalp)

    on_scalp = np.nonzero(scalp > 0.01)[0]
    q, cover = p[on_scalp], scalp[on_scalp]
    fine, coarse = hair.streaks(q, traits, 4.0), hair.streaks(q, traits, 1.3)
    root = 1 - 0.25 * smoothstep(1.2, 0.0, hair.hairline(q, traits))
    tone = traits.hair * (np.exp(0.30 * fine + 0.24 * coarse) * root)[:, None]
    albedo[on_scalp] += cover[:, None] * (tone - albedo[on_scalp])
    height[on_scalp] += cover * (0.016 * fine + 0.05 * coarse)

    on_beard = np.nonzero(beard > 0.01)[0]
    q = p[on_beard]
    strand = hair.beard_strands(q, traits, 5.0)
    if traits.beard == "stubble":
        dots = smoothstep(0.1, 1.1, noise(q, 6.5, traits.offset + 86) + 0.4 * noise(q, 1.0, traits.offset + 87))
        cover = beard[on_beard] * traits.beard_density * (0.16 + 0.5 * dots)
        beard[on_beard] = 0.2 * cover
    else:
        thin = 2.6 * (1 - beard[on_beard]) + 0.6 * (1 - traits.beard_density)
        least = 0.85 * smoothstep(0.5, 0.9, beard[on_beard])  # only at the border skin shows between the strands
        cover = beard[on_beard] * np.maximum(smoothstep(-1.0, 0.2, strand + 2.4 - 1.6 * thin), least)
        beard[on_beard] = cover
    tone = 0.85 * traits.hair * np.exp(0.28 * strand)[:, None]
    albedo[on_beard] += cover[:, None] * (tone - albedo[on_beard])
    height[on_beard] += beard[on_beard] * 0.018 * strand
    albedo += brow[:, None] * (traits.brow - albedo)

    cover = np.maximum(np.maximum(scalp, beard), 0.7 * brow)
    group, crease, crease_slope = wrinkles.creases(p, traits)
    hidden = (1 - cover) * outer
    values = np.empty((len(p), 13), np.float32)
    values[:, :3], values[:, 3], values[:, 4:7] = albedo, gloss * (1 - 0.45 * cover), 0
    values[:, 7], values[:, 8:11] = crease * hidden, crease_slope * hidden[:, None]
    values[:, 11], values[:, 12] = flush, cover
    return values, height, group
