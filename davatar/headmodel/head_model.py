"""`HeadModel`: a trained head as everyone else sees it, in head-model units (1 unit = 250 mm; design 4).

Codes in, distances, canonical points, anchors and meshes out. Tensors with any leading axes; code
axes broadcast against the points' leading axes. `frame` is the similarity to metres. Nothing here depends on the
device: `to` moves the network, codes and points are expected beside it, meshes come back as arrays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from davatar.core.errors import ConfigError, DataError
from davatar.core.runs import resolve_run
from davatar.geometry.mesh import Mesh
from davatar.geometry.surface import extract_surface
from davatar.geometry.surface_sequence import SurfaceSequence
from davatar.headmodel.ict_codes import CodeMaps
from davatar.headmodel.morphable import UNITS_PER_METRE
from davatar.headmodel.nphm import NPHM
from davatar.headmodel.published_checkpoint import is_published, load_published, summary
from davatar.headmodel.weights import load_weights, published_tensors, tensor_hash

GRID = np.array([[-0.55, -0.5, -0.95], [0.55, 0.75, 0.4]])
"""[2, 3] head-model units: the box in which surfaces are extracted (spec dphm 2)."""
PIECE = {"cpu": 4096, "cuda": 131072}  # points per pass through the network: a processor's cache, a GPU's width


def find_head_model(name: str | Path) -> str | Path:
    """What `HeadModel.from_pretrained` takes, for a name that may be that of a run which trained one.

    Raises:
        MissingError: no file and no run is called so.
    """
    if str(name) == "open" or Path(name).is_file() or is_published(name):
        return name
    return resolve_run(name).folder / "model.safetensors"


class HeadModel:
    """A head model ready for use: no gradients to its weights, gradients to codes and points.

    Args:
        network: the trained network.
        maps: linear maps between morphable coefficients and codes; None for published checkpoints.
        hash: content hash of the weights.
        name: how messages call it.
        about: licence and training data, as the file says.

    `tf32` lets a GPU round the factors of single-precision products to 11 bits; off unless set. `skip_below` trades
    accuracy for speed under the bound that `ensemble` states.
    """

    tf32 = False

    def __init__(self, network: NPHM, maps: CodeMaps | None, hash: str, name: str, about: dict[str, str] | None = None):
        self.network = network.eval().requires_grad_(False)
        self.maps, self.hash, self.name, self.about = maps, hash, name, about or {}

    def to(self, device: str | torch.device) -> HeadModel:
        """Move the network to a device; returns itself."""
        self.network.to(device)
        return self

    def compile(self) -> HeadModel:
        """Let torch compile the deformation network, the larger half of the work; returns itself.

        Needs the compiler that torch needs. The members are not compiled: how many rows each gets changes with
        every call.
        """
        self.network.deformation.compile(dynamic=True)
        return self

    @property
    def skip_below(self) -> float:
        """Share of the blend under which a member is not asked; 0 asks everyone who counts."""
        return self.network.identity.skip_below

    @skip_below.setter
    def skip_below(self, share: float) -> None:
        if not 0 <= share < 0.1:
            raise ConfigError(f"skip_below is {share:g}, expected 0 to 0.1: a tenth may be all there is")
        self.network.identity.skip_below = share

    @classmethod
    def from_pretrained(cls, name: str | Path = "open") -> HeadModel:
        """
        Args:
            name: "open" for the model that ships with davatar, the path of a head-model file, or a published
                checkpoint (`checkpoint_epoch_<n>.tar`, or a folder above it).

        Raises:
            MissingError: no file at that path.
            DataError: the file is truncated, damaged or no head model.
        """
        if str(name) == "open":
            with as_file(files("davatar.assets") / "nphm" / "open.safetensors") as path:
                network, maps, metadata = load_weights(path)
        elif is_published(name):
            head = load_published(name)
            return cls(head.network, None, tensor_hash(published_tensors(head)), str(name), summary(head.about))
        else:
            network, maps, metadata = load_weights(name)
        about = {key: metadata[key] for key in ("licence", "training_data") if key in metadata}
        about |= summary(json.loads(metadata.get("imported", "{}")))
        return cls(network, maps, metadata["hash"], str(name), about)

    def describe(self) -> dict:
        """What it is, for people: sizes, parameters, licence, training data, hash."""
        config = self.network.config
        return {
            "identity_size": self.identity_size,
            "expression_size": self.expression_size,
            "anchors": config.anchors,
            "members": f"{config.anchors + 1 - config.pairs} networks of width {config.member_width}",
            "deformation": f"{config.head} head, width {config.deformation_width}",
            "parameters": sum(p.numel() for p in self.network.parameters()),
            **self.about,
            "hash": self.hash,
        }

    @property
    def identity_size(self) -> int:
        return self.network.config.identity_size

    @property
    def expression_size(self) -> int:
        return self.network.config.expression_size

    @property
    def canonical_size(self) -> int:
        """3 + number of hyper coordinates."""
        return 3 + self.network.config.hyper

    @property
    def frame(self) -> np.ndarray:
        """[4, 4] similarity from head-model units to metres in the head's own axes."""
        return np.diag([1 / UNITS_PER_METRE] * 3 + [1.0])

    @property
    def dtype(self) -> torch.dtype:
        return self.network.identity.mean_anchors.dtype

    @property
    def device(self) -> torch.device:
        return self.network.identity.mean_anchors.device

    @property
    def queries_at_once(self) -> int:
        """How many points one pass through the network takes on this device; speed only, never values."""
        return PIECE.get(self.device.type, PIECE["cpu"])

    @contextmanager
    def _products(self) -> Iterator[None]:
        """Matrix products in the precision that `tf32` says, whatever the process uses elsewhere."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def _aligned(self, x: Tensor, *codes: Tensor) -> tuple[tuple[int, ...], list[Tensor]]:
        """Leading axes, then x as [B, N, 3] and each code as [B, size]; leading axes broadcast."""
        lead = torch.broadcast_shapes(x.shape[:-2], *(code.shape[:-1] for code in codes))
        heads = math.prod(lead)
        points = x.expand(*lead, *x.shape[-2:]).reshape(heads, *x.shape[-2:])
        return lead, [points] + [code.expand(*lead, code.shape[-1]).reshape(heads, code.shape[-1]) for code in codes]

    def _check(self, identity: Tensor, expression: Tensor | None = None) -> None:
        wrong = [
            f"{label} code has {code.shape[-1]} numbers, {self.name} takes {size}"
            for label, code, size in (
                ("identity", identity, self.identity_size),
                ("expression", expression, self.expression_size),
            )
            if code is not None and code.shape[-1] != size
        ]
        if wrong:
            raise DataError("; ".join(wrong), mend="use codes of this head model")

    def sdf(self, x: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
        """Signed distance, positive outside; differentiable in all three.

        Where no gradient is recorded the points go through the network `queries_at_once` at a time.

        Args:
            x: [..., N, 3] posed points, head-model units.
            identity: [..., Di].
            expression: [..., De].

        Returns:
            [..., N] head-model units.

        Raises:
            DataError: a code has the wrong length.
        """
        self._check(identity, expression)
        lead, flat = self._aligned(x, identity, expression)
        with self._products():
            if torch.is_grad_enabled() and any(given.requires_grad for given in flat):
                return self.network(*flat).reshape(*lead, x.shape[-2])
            points, *codes = flat
            parts = points.split(max(1, self.queries_at_once // max(1, len(points))), dim=1)
            pieces = [self.network(part, *codes) for part in parts]
            return torch.cat(pieces, dim=1).reshape(*lead, x.shape[-2])

    def sdf_and_gradient(
        self, x: Tensor, identity: Tensor, expression: Tensor, max_queries: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Signed distance and its derivative by the point, for use rather than for further differentiation.

        The points go through the network `max_queries` at a time, forward and back, so that what is kept for the
        way back stays in the processor's cache, and memory does not grow with their number.

        Args:
            x: [..., N, 3] posed points, head-model units.
            identity, expression: [..., Di], [..., De].
            max_queries: half of `queries_at_once` when None.

        Returns:
            [..., N] head-model units and [..., N, 3], not normalised; no graph behind them.

        Raises:
            DataError: a code has the wrong length.
        """
        self._check(identity, expression)
        lead, (points, *codes) = self._aligned(x, identity, expression)
        max_queries = max_queries or self.queries_at_once // 2
        values, slopes = points.new_empty(points.shape[:-1]), torch.empty_like(points)
        each = max(1, max_queries // max(1, len(points)))
        with self._products(), torch.enable_grad():
            for first in range(0, len(points), max_queries):
                heads = slice(first, first + max_queries)
                for start in range(0, points.shape[1], each):
                    some = slice(start, start + each)
                    at = points[heads, some].detach().requires_grad_()
                    found = self.network(at, *(code[heads].detach() for code in codes))
                    (slopes[heads, some],) = torch.autograd.grad(found.sum(), at)
                    values[heads, some] = found.detach()
        return values.reshape(*lead, x.shape[-2]), slopes.reshape(*lead, *x.shape[-2:])

    def to_canonical(self, x: Tensor, identity: Tensor, expression: Tensor) -> Tensor:
        """Posed points [..., N, 3] -> canonical points with hyper coordinates [..., N, 3 + H]."""
        self._check(identity, expression)
        lead, flat = self._aligned(x, identity, expression)
        return self.network.to_canonical(*flat).reshape(*lead, x.shape[-2], self.canonical_size)

    def anchors(self, identity: Tensor) -> Tensor:
        """[..., Di] -> [..., K, 3] canonical positions of the member centres, head-model units."""
        self._check(identity)
        return self.network.identity.anchors(identity.reshape(-1, identity.shape[-1])).reshape(
            *identity.shape[:-1], -1, 3
        )

    def codes(self, identity_coefficients, expression_coefficients) -> tuple[Tensor, Tensor]:
        """Morphable coefficients [..., 100] and [..., 53] -> identity [..., Di] and expression [..., De] codes.

        Raises:
            DataError: this head model has no such maps (published checkpoints).
        """
        maps = self._maps()
        identity, expression = (
            torch.as_tensor(given, dtype=self.dtype, device=self.device)
            for given in (identity_coefficients, expression_coefficients)
        )
        return identity @ torch.from_numpy(maps.identity).to(identity).T, expression * torch.from_numpy(
            maps.expression
        ).to(expression)

    def coefficients(self, identity: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Codes -> nearest morphable coefficients [..., 100] and [..., 53], the least-squares inverse of `codes`."""
        maps = self._maps()
        self._check(identity, expression)
        back = torch.from_numpy(self._pseudo_inverse).to(identity)
        return identity @ back.T, expression / torch.from_numpy(maps.expression).to(expression)

    @cached_property
    def _pseudo_inverse(self) -> np.ndarray:
        return np.linalg.pinv(self._maps().identity.astype(np.float64))

    def _maps(self) -> CodeMaps:
        if self.maps is None:
            raise DataError(f"{self.name} has no morphable coefficients", mend="use the `open` head model")
        return self.maps

    def mesh(
        self,
        identity: Tensor,
        expression: Tensor,
        resolution: int = 128,
        previous: Mesh | None = None,
        max_queries: int | None = None,
        keep_components: bool = False,
        with_canonical: bool = True,
    ) -> Mesh:
        """The head's surface, head-model units, with canonical coordinates per vertex.

        Args:
            identity, expression: codes [Di], [De].
            resolution: samples per axis of the box `GRID`, ends included.
            previous: last frame's mesh: the search follows the surface from there. `sequence` asks far fewer points.
            max_queries: points per network call, bounds memory; `queries_at_once` when None.
            keep_components: keep specks that float beside the head (they are dropped by default).
            with_canonical: without, the mesh carries none, and the network is not asked for them.

        Raises:
            DataError: the codes give no surface in the box.
        """
        max_queries = max_queries or self.queries_at_once
        field = self._field(identity, expression)
        vertices, triangles = extract_surface(
            field,
            GRID,
            resolution,
            previous=None if previous is None else previous.vertices,
            max_queries=max_queries,
            largest_only=not keep_components,
        )
        canonical = self._canonical(vertices, identity, expression, max_queries) if with_canonical else None
        return Mesh(vertices.astype(np.float32), triangles, canonical)

    def sequence(
        self,
        identity: Tensor,
        resolution: int = 128,
        tolerance: float = 1e-4,
        max_queries: int | None = None,
        keep_components: bool = False,
        with_canonical: bool = True,
    ) -> Callable[[Tensor], Mesh]:
        """Meshes of one identity, frame after frame: a function from an expression code [De] to `mesh`'s result.

        What did not change since an earlier frame is not asked again; `SurfaceSequence` says what is promised.

        Args:
            identity: code [Di].
            tolerance: how far a vertex may be from where `mesh` puts it, head-model units; 0 asks everything.
            the others: as in `mesh`.
        """
        max_queries = max_queries or self.queries_at_once
        surfaces = SurfaceSequence(GRID, resolution, tolerance, max_queries, largest_only=not keep_components)

        def next_mesh(expression: Tensor) -> Mesh:
            vertices, triangles = surfaces.extract(self._field(identity, expression))
            canonical = self._canonical(vertices, identity, expression, max_queries) if with_canonical else None
            return Mesh(vertices.astype(np.float32), triangles, canonical)

        return next_mesh

    def _field(self, identity: Tensor, expression: Tensor) -> Callable[[np.ndarray], np.ndarray]:
        """The signed distance of one head as a function of arrays [N, 3] -> [N]."""
        self._check(identity, expression)
        one, two = (code.detach().reshape(1, -1).to(self.device) for code in (identity, expression))

        def field(points: np.ndarray) -> np.ndarray:
            with torch.no_grad(), self._products():
                x = torch.from_numpy(np.ascontiguousarray(points)).to(one)
                return self.network(x[None], one, two)[0].cpu().numpy()

        return field

    def _canonical(self, vertices: np.ndarray, identity: Tensor, expression: Tensor, max_queries: int) -> np.ndarray:
        """[V, 3 + H] float32 canonical and hyper coordinates of vertices [V, 3]."""
        one, two = (code.detach().reshape(1, -1).to(self.device) for code in (identity, expression))
        canonical = np.empty((len(vertices), self.canonical_size), np.float32)
        with torch.no_grad(), self._products():
            for start in range(0, len(vertices), max_queries):
                x = torch.from_numpy(vertices[start : start + max_queries]).to(one)[None]
                canonical[start : start + max_queries] = self.network.to_canonical(x, one, two)[0].cpu()
        return canonical
