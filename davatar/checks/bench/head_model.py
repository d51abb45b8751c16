"""`davatar bench head-model`: the field and its surfaces, plain against ours.

The plain way is `plain_head_model`; for surfaces it is that on the dense grid, timed on a share of its points and
scaled up, for it would take hours. Two models: the widths of published checkpoints with random weights, and the
open model. Both ways answer the same queries, and how far their answers differ stands among the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from davatar.checks.bench.plain_head_model import plain_sdf, plain_sdf_and_gradient
from davatar.checks.bench.rows import Options, Row, in_turn
from davatar.core.progress import Progress, silent
from davatar.geometry.lattice import Lattice
from davatar.geometry.marching_cubes import triangulate
from davatar.geometry.surface import MAX_BYTES, crossed_cells
from davatar.geometry.surface_sequence import SurfaceSequence
from davatar.headmodel.head_model import GRID, HeadModel
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.nphm import NPHM, NPHMConfig

COUNTS = (2_000, 100_000)  # queries at once; of a tracker's step, and of a sequence's
PLAIN_AT_ONCE = 25_000  # queries per pass of the plain way, the smallest that spec dphm 2 names
DENSE_SHARE = 8_192  # points of the dense grid that go through at once, and those that are timed
CHECKED = 64  # samples per axis of the dense grid that is computed in full; 32 when it has to be quick
SPREAD = 0.04  # head-model units: how far queries are from the anchors, that is from the skin
FASTER = {"jawOpen": 0.02, "mouthSmile": 0.02, "browInnerUp_L": 0.02}  # from one frame to the next, at 30 per second


def head_model(options: Options, progress: Progress = silent) -> list[Row]:
    """Rows of both models; surfaces of the open one."""
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        published, opened = random_model(), HeadModel.from_pretrained("open").to(options.device)
        rows = []
        counts = COUNTS[:1] if options.quick else COUNTS
        with progress.task("head model", total=2 * len(counts) + 1) as task:
            for name, model in (("published widths", published.to(options.device)), ("open model", opened)):
                width = model.network.config.member_width
                rate = matrix_rate(width, options)
                note = f"2048 x {width} by {width} x {width}"
                rows.append(Row(f"{name}: matrix products", None, rate / 1e9, "1e9 multiplications/s", None, note))
                for count in counts:
                    rows += field(model, name, count, rate, options)
                    task.advance()
            rows += surfaces(opened, options, CHECKED // 2 if options.quick else CHECKED)
            task.advance()
        return rows
    finally:
        torch.set_num_threads(before)


def random_model(config: NPHMConfig | None = None, anchors: np.ndarray = MEAN_ANCHORS) -> HeadModel:
    """A model of the published widths whose weights are drawn as the framework draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NPHM(config or NPHMConfig(), torch.from_numpy(anchors).float())
    return HeadModel(network, None, "random", "random weights")


def _somebody(model: HeadModel, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [N, 3] around the anchors, and codes of the size that trained ones have."""
    draw = torch.Generator().manual_seed(1)
    identity = 0.02 * torch.randn(model.identity_size, generator=draw)
    expression = 0.3 * torch.rand(model.expression_size, generator=draw)
    near = model.network.identity.mean_anchors.cpu()
    chosen = near[torch.randint(len(near), (count,), generator=draw)]
    x = chosen + SPREAD * torch.randn(count, 3, generator=draw)
    return tuple(given.to(model.device, model.dtype) for given in (x, identity, expression))


def multiplications(model: HeadModel, rows_per_query: float) -> float:
    """Products of two numbers that one query cannot do without, codes' share excluded (they are the head's)."""
    config = model.network.config
    inputs, width = 3 + config.hyper, config.member_width
    member = inputs * width + (config.member_layers - 1) * width**2 + width
    width, layers = config.deformation_width, config.deformation_layers
    if config.head == "linear":
        again = 3 * width if layers // 2 else 0
        trunk = 3 * width + again + (layers - 1) * width**2 + width * inputs
    else:
        half, rank = layers // 2 - 1, config.linear_rank + config.product_rank
        trunk = 6 * width + 2 * half * width**2 + (width + 9) * width + width * (rank + config.hyper) + 3 * rank
    return rows_per_query * member + trunk


def rows_per_query(model: HeadModel, x: Tensor, identity: Tensor, expression: Tensor) -> float:
    """How many members ours asks, on average."""
    decoder = model.network.identity
    with torch.no_grad():
        canonical = model.to_canonical(x, identity, expression)[None, :, :3]
        weights = decoder.blend(canonical, decoder.anchors(identity[None]))[1]
    return float((weights > 1e-9).sum()) / len(x)


def matrix_rate(width: int, options: Options) -> float:
    """Multiplications per second of square matrices of `width` with blocks of 2048 rows."""
    draw = torch.Generator().manual_seed(2)
    a, b = (torch.randn(n, width, generator=draw).to(options.device) for n in (2048, width))
    times = max(1, int(1e9 / (2048 * width**2)))

    def multiply() -> None:
        for _ in range(times):
            F.linear(a, b)

    multiply()
    return times * 2048 * width**2 / in_turn({"multiply": multiply}, options)["multiply"].median


def field(model: HeadModel, name: str, count: int, rate: float, options: Options) -> list[Row]:
    """Queries per second, without and with the gradient by the point; `rate` is the machine's (`matrix_rate`)."""
    x, identity, expression = _somebody(model, count)
    network, some = model.network, x[:PLAIN_AT_ONCE]

    def plain() -> Tensor:
        with torch.no_grad():
            return plain_sdf(network, some, identity, expression)

    def ours() -> Tensor:
        with torch.no_grad():
            return model.sdf(x, identity, expression)

    def plain_slope() -> tuple[Tensor, Tensor]:
        return plain_sdf_and_gradient(network, some, identity, expression)

    def our_slope() -> tuple[Tensor, Tensor]:
        return model.sdf_and_gradient(x, identity, expression)

    asked = rows_per_query(model, x[:2000], identity, expression)
    needed = multiplications(model, asked)
    share = "" if len(some) == count else f"; plain timed on {len(some)} of them"
    found = []
    for what, passes, one, other in (("forward", 1, plain, ours), ("forward + gradient", 2, plain_slope, our_slope)):
        taken = in_turn({"plain": one, "ours": other}, options)
        speeds = [len(some) / taken["plain"].median, count / taken["ours"].median]
        floor = rate / (passes * needed)
        note = f"{speeds[1] / floor:.2f} of the arithmetic ceiling {floor:.0f}/s, {asked:.1f} members asked{share}"
        found.append(Row(f"{name}: {what}, {count} queries", *speeds, "queries/s", speeds[1] / speeds[0], note))
    few = x[: min(count, 2000)]
    with torch.no_grad():
        error = float(
            (plain_sdf(network, few, identity, expression) - model.sdf(few, identity, expression)).abs().max()
        )
    found.append(Row(f"{name}: largest difference of values", None, error, "head-model units", None))
    return found


def _dense(model: HeadModel, resolution: int, codes: Sequence[Tensor], ways: str) -> np.ndarray:
    """Values of the whole grid [R, R, R], computed by the plain way or by ours."""
    axes = [np.linspace(GRID[0, c], GRID[1, c], resolution) for c in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    values = []
    with torch.no_grad():
        for start in range(0, len(points), DENSE_SHARE):
            x = torch.from_numpy(points[start : start + DENSE_SHARE]).to(codes[0])
            values.append(plain_sdf(model.network, x, *codes) if ways == "plain" else model.sdf(x, *codes))
    return torch.cat(values).cpu().numpy().reshape((resolution,) * 3)


def _moving(model: HeadModel) -> list[tuple[Tensor, Tensor]]:
    """Codes of three frames of a smile."""
    if model.maps is None:
        x, identity, expression = _somebody(model, 1)
        return [(identity, expression * (1 + 0.02 * k)) for k in range(3)]
    from davatar.headmodel.morphable import open_morphable

    weights, draw = open_morphable().weights, np.random.default_rng(3)
    shape = draw.standard_normal(model.maps.identity.shape[1])
    start = weights(jawOpen=0.2, mouthSmile=0.4).astype(float)
    return [model.codes(shape, start + k * weights(**FASTER)) for k in range(3)]


def surfaces(model: HeadModel, options: Options, checked: int = CHECKED) -> list[Row]:
    """One surface, the frames after it, and whether they are the dense grid's."""
    frames, count = _moving(model), options.resolution
    lattice = Lattice(model._field(*frames[0]), GRID, count, model.queries_at_once, MAX_BYTES)

    def whole_surface() -> None:
        nonlocal lattice
        lattice = Lattice(model._field(*frames[0]), GRID, count, model.queries_at_once, MAX_BYTES)
        triangulate(lattice, *crossed_cells(lattice, 1.2))

    draw = np.random.default_rng(4)
    some = GRID[0] + draw.random((DENSE_SHARE, 3)) * (GRID[1] - GRID[0])
    x = torch.from_numpy(some).to(frames[0][0])

    def share_of_grid() -> None:
        with torch.no_grad():
            plain_sdf(model.network, x, *frames[0])

    surfaces = SurfaceSequence(GRID, count, max_queries=model.queries_at_once)
    for frame in frames[:2]:  # the first becomes the key; the second is as any that follows
        surfaces.extract(model._field(*frame))

    def next_frame() -> None:
        surfaces.extract(model._field(*frames[2]))

    ways = {"plain": share_of_grid, "ours": whole_surface, "next": next_frame}
    taken = {name: timing.median for name, timing in in_turn(ways, options, most=3).items()}
    dense = taken["plain"] * count**3 / DENSE_SHARE
    scaled = f"plain scaled up from {DENSE_SHARE} of {count**3} points"
    what = f"open surface at {count}^3" if model.name == "open" else f"surface at {count}^3"
    queries = lattice.queries
    rows = [
        Row(f"{what}: time", dense, taken["ours"], "s", dense / taken["ours"], scaled),
        Row(f"{what}: queries", count**3, queries, "queries", count**3 / queries, "plain is the dense grid"),
        Row(
            f"{what}: next frame, time", taken["ours"], taken["next"], "s", taken["ours"] / taken["next"],
            "plain is ours without the frame before",
        ),
        Row(
            f"{what}: next frame, queries", queries, surfaces.queries, "queries", queries / surfaces.queries,
            "plain is ours without the frame before",
        ),
    ]  # fmt: skip
    return rows + identity_of_meshes(model, frames, checked)


def identity_of_meshes(model: HeadModel, frames: list[tuple[Tensor, Tensor]], resolution: int) -> list[Row]:
    """Largest distance of a vertex to the nearest one of the dense grid's mesh, both ways round."""
    from scipy.spatial import cKDTree
    from skimage.measure import marching_cubes

    def apart(vertices: np.ndarray, codes: Sequence[Tensor], ways: str) -> float:
        whole = marching_cubes(-_dense(model, resolution, codes, ways), 0.0, method="lorensen")[0]
        whole = whole * (GRID[1] - GRID[0]) / (resolution - 1) + GRID[0]
        return max(cKDTree(a).query(b)[0].max() for a, b in ((whole, vertices), (vertices, whole)))

    sequence = SurfaceSequence(GRID, resolution, max_queries=model.queries_at_once)
    meshes = [sequence.extract(model._field(*codes))[0] for codes in frames]
    what, unit = f"vertices at {resolution}^3", "head-model units"
    plain, dense = (f"largest distance to the mesh of the dense grid, {ways} values" for ways in ("plain", "our"))
    return [
        Row(f"{what}: first frame", None, apart(meshes[0], frames[0], "plain"), unit, None, plain),
        Row(f"{what}: third frame", None, apart(meshes[2], frames[2], "ours"), unit, None, dense),
    ]
