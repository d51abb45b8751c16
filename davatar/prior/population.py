"""Whose codes a prior learns: populations to draw from, endlessly and by seed.

The open head model's codes are linear images of morphable coefficients, so its populations are drawn
as coefficients: identities are standard normal (that is how the morphable model defines them);
expressions are captured frames (some mirrored, some weaker or stronger), captured frames with one to
seven single shapes on top, and single shapes alone. Since no prior can beat a Gaussian on normal
identities, there is also a population of families: finitely many people who resemble their relatives.
A head model trained from scans has a table of codes instead. Values are what is drawn (coefficients or
codes); normalised values are what a network sees, unit variance each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from davatar.core.errors import DataError
from davatar.headmodel.ict_codes import code_maps
from davatar.headmodel.ict_samples import sample_expressions, sample_identities
from davatar.headmodel.morphable import open_morphable
from davatar.prior.code_prior import Kind
from davatar.prior.code_rows import CodeRows, load_code_rows
from davatar.prior.mocap import load_mocap
from davatar.prior.normalization import LinearNormalization, Normalization, RangeNormalization
from davatar.prior.settings import DataSettings

Draw = Callable[[int, np.random.Generator], np.ndarray]  # (count, generator) -> values [count, K]

STATISTICS_DRAWS = 20000
SINGLE_SHAPES = 16384  # drawn once and then picked from: drawing them costs more than a training step
HELD_OUT_SHAPES = 4096
NEVER_MOVES = 1e-3  # standard deviation of a shape that the frames do not contain; nothing is divided by zero
FAMILIES, PEOPLE = 16, 4096
RESEMBLANCE = 0.9  # of a coefficient's standard deviation lies in the family, the rest is the person's own


@dataclass(frozen=True)
class Population:
    kind: Kind
    normalization: Normalization
    draw: Draw  # training values
    held_out: Draw  # values that training never sees
    mean: np.ndarray  # [K] of the training values
    spread: np.ndarray  # [K] their standard deviation
    about: str  # one sentence for the prior's file
    captured: np.ndarray | None = None  # [M, K] held-out captured frames, where there are any
    morphable: bool = False  # whether values are coefficients of the open morphable model
    normal: bool = False  # whether it is a Gaussian by definition, so that no prior can beat one

    def normalised(self, values: np.ndarray) -> np.ndarray:
        """[n, K] values -> [n, Lw] float32, what the network sees."""
        return ((values - self.mean) / self.spread).astype(np.float32)

    def values(self, normalised: np.ndarray) -> np.ndarray:
        """The way back."""
        return normalised * self.spread + self.mean


def open_population(
    kind: Kind, settings: DataSettings, seed: int = 0, normalization: Normalization | None = None
) -> Population:
    """Codes of the open head model.

    Args:
        normalization: that of a prior trained on this population; None: made anew (some seconds).

    Raises:
        DataError: the motion file is unreadable or its shapes are not those of the open model.
    """
    if kind == "identity":
        return _identities(settings, seed, normalization)
    if kind == "expression":
        return _expressions(settings, seed, normalization)
    return _joined(_identities(settings, seed, None), _expressions(settings, seed, None), normalization)


def _identities(settings: DataSettings, seed: int, normalization: Normalization | None) -> Population:
    count = len(open_morphable().identity)
    if settings.identities == "families":
        draw, held_out, mean, spread = _families(count, seed)
        about = f"{PEOPLE} people in {FAMILIES} families of relatives, coefficients of the ICT-FaceKit model"
    else:
        draw = held_out = sample_identities
        mean, spread = np.zeros(count), np.ones(count)
        about = "identity coefficients of the ICT-FaceKit model, independent standard normal"
    if normalization is None:
        code_of = code_maps(open_morphable()).identity.T.astype(np.float64)
        normalization = LinearNormalization.from_coefficients(code_of, np.zeros(code_of.shape[1]), mean, spread)
    normal = settings.identities == "normal"
    return Population("identity", normalization, draw, held_out, mean, spread, about, morphable=True, normal=normal)


def _families(count: int, seed: int) -> tuple[Draw, Draw, np.ndarray, np.ndarray]:
    """Training people (finitely many), unlimited unseen relatives of theirs, and the training mean and spread."""
    rng = np.random.default_rng([seed, 5])
    centers = RESEMBLANCE * rng.standard_normal((FAMILIES, count))
    own = np.sqrt(1 - RESEMBLANCE**2)

    def relatives(number: int, rng: np.random.Generator) -> np.ndarray:
        return centers[rng.integers(FAMILIES, size=number)] + own * rng.standard_normal((number, count))

    people = relatives(PEOPLE, rng)

    def draw(number: int, rng: np.random.Generator) -> np.ndarray:
        return people[rng.integers(PEOPLE, size=number)]

    return draw, relatives, people.mean(axis=0), people.std(axis=0)


def _expressions(settings: DataSettings, seed: int, normalization: Normalization | None) -> Population:
    model, motion = open_morphable(), load_mocap(settings.motion)
    if motion.names != model.expression_names:
        raise DataError("its shapes are not those of the open head model", file=settings.motion, mend="reorder them")
    draw = _expression_draw(motion.training(), settings, SINGLE_SHAPES, np.random.default_rng([seed, 1]))
    held_out = _expression_draw(motion.evaluation(), settings, HELD_OUT_SHAPES, np.random.default_rng([seed, 2]))
    values = draw(STATISTICS_DRAWS, np.random.default_rng([seed, 3]))
    mean, spread = values.mean(axis=0), values.std(axis=0).clip(NEVER_MOVES)
    if normalization is None:
        scale = code_maps(model).expression.astype(np.float64)
        normalization = LinearNormalization.from_coefficients(np.diag(scale), np.zeros(len(scale)), mean, spread)
    about = (
        f"expressions: {settings.captured:.0%} captured frames ({len(motion.training())} frames of one performer, test "
        f"recordings left out), {settings.overlaid:.0%} with single shapes on top, the rest single shapes alone"
    )
    return Population("expression", normalization, draw, held_out, mean, spread, about, motion.evaluation(), True)


def _expression_draw(frames: np.ndarray, settings: DataSettings, shapes: int, once: np.random.Generator) -> Draw:
    """Draws from some captured frames and a pool of `shapes` single shapes, which `once` makes."""
    mirror = open_morphable().expression_mirror
    names = open_morphable().expression_index
    close, jaw = names["mouthClose"], names["jawOpen"]
    pool: list[np.ndarray] = []

    def draw(count: int, rng: np.random.Generator) -> np.ndarray:
        if not pool:
            pool.append(sample_expressions(shapes, once))
        which = rng.random(count)
        captured = frames[rng.integers(len(frames), size=count)]
        swapped = rng.random(count) < 0.5
        captured = np.where(swapped[:, None], captured[:, mirror], captured)
        scaled = rng.random(count) < 0.5
        captured = captured * np.where(scaled, rng.uniform(0.5, 1.15, count), 1.0)[:, None]
        single = pool[0][rng.integers(len(pool[0]), size=count)] * rng.uniform(0.9, 1.1, (count, 1))
        out = np.where((which < settings.captured + settings.overlaid)[:, None], captured, 0.0)
        out = np.where((which >= settings.captured)[:, None], np.maximum(out, single), out).clip(0, 1)
        out[:, close] = np.minimum(out[:, close], out[:, jaw])
        return out

    return draw


def _joined(identity: Population, expression: Population, normalization: Normalization | None) -> Population:
    """Both codes one after the other, drawn independently."""

    def draw(count: int, rng: np.random.Generator) -> np.ndarray:
        return np.concatenate([identity.draw(count, rng), expression.draw(count, rng)], axis=1)

    def held_out(count: int, rng: np.random.Generator) -> np.ndarray:
        return np.concatenate([identity.held_out(count, rng), expression.held_out(count, rng)], axis=1)

    if normalization is None:
        normalization = LinearNormalization.joined(identity.normalization, expression.normalization)
    return Population(
        "joint",
        normalization,
        draw,
        held_out,
        np.concatenate([identity.mean, expression.mean]),
        np.concatenate([identity.spread, expression.spread]),
        f"{identity.about}; {expression.about}",
        morphable=True,
    )


def table_population(kind: Kind, rows: CodeRows, settings: DataSettings, seed: int = 0) -> Population:
    """Codes of a trained head model: rows of its table; one in ten (people, where rows say whose) is held out.

    Args:
        settings: `normalization` "range" scales as the published priors do; "whiten" goes to principal components.

    Raises:
        DataError: too few rows or people, values that are not finite, or rows that are all the same.
    """
    table = rows.codes
    if table.ndim != 2 or len(table) < 20 or not table.shape[1]:
        raise DataError(f"code table of shape {list(table.shape)}: at least 20 rows of codes are needed")
    if not np.isfinite(table).all():
        bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
        raise DataError(f"code table holds values that are not finite, first in row {bad[0]}", mend="drop those rows")
    if (table == table[0]).all():
        raise DataError("every row of the code table is the same code", mend="give codes of different heads")
    aside = _held_out_rows(rows, np.random.default_rng([seed, 4]))
    kept, left = table[~aside], table[aside]
    weights = np.ones(len(table)) if rows.weights is None else rows.weights.astype(np.float64)
    if settings.normalization == "range":
        low, high = float(table.min()), float(table.max())
        normalization: Normalization = RangeNormalization(low, high, table.shape[1])
        mean, spread = np.full(table.shape[1], (low + high) / 2), np.full(table.shape[1], (high - low) / 2)
    else:
        normalization = _principal_components(kept)
        kept, left = ((x - normalization.mean) @ normalization.to_whitened for x in (kept, left))
        mean, spread = np.zeros(normalization.size), np.ones(normalization.size)

    def rows_of(some: np.ndarray, weight: np.ndarray) -> Draw:
        return lambda count, rng: some[rng.choice(len(some), count, p=weight / weight.sum())]

    draw, held_out = rows_of(kept, weights[~aside]), rows_of(left, weights[aside])
    about = f"{len(kept)} rows of a head model's {kind} code table"
    return Population(kind, normalization, draw, held_out, mean, spread, about)


def _held_out_rows(rows: CodeRows, rng: np.random.Generator) -> np.ndarray:
    """[N] bool, a tenth of the people (at least one) or of the rows."""
    people = np.arange(len(rows.codes)) if rows.people is None else rows.people
    if people.shape != (len(rows.codes),):
        raise DataError(f"people of shape {list(people.shape)} beside {len(rows.codes)} codes", mend="name one per row")
    everyone = rng.permutation(np.unique(people))
    if len(everyone) < 2:
        raise DataError("every row is the same person's, so nobody is left to judge by", mend="leave people out")
    return np.isin(people, everyone[: max(1, len(everyone) // 10)])


def _principal_components(table: np.ndarray, explained: float = 0.9999) -> LinearNormalization:
    """The plane through the mean that holds nearly all variance, unit variance along each axis."""
    mean = table.mean(axis=0)
    _, spread, axes = np.linalg.svd(table - mean, full_matrices=False)
    spread = spread / np.sqrt(len(table) - 1)
    share = np.cumsum(spread**2) / max((spread**2).sum(), 1e-30)
    keep = int(np.searchsorted(share, explained)) + 1
    return LinearNormalization(mean, spread[:keep, None] * axes[:keep])


def make_population(
    kind: Kind, settings: DataSettings, seed: int, normalization: Normalization | None = None
) -> Population:
    """What `settings.codes` names: "open", or a file of codes; `normalization` as in `open_population`."""
    if settings.codes == "open":
        return open_population(kind, settings, seed, normalization)
    return table_population(kind, load_code_rows(settings.codes, kind), settings, seed)
