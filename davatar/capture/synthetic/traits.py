"""What one synthetic person looks like, as a handful of sampled numbers.

Colours are linear RGB albedos, 0..1; lengths are template centimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def linear(*srgb: float) -> np.ndarray:
    """sRGB 0..255 -> linear 0..1."""
    c = np.asarray(srgb, np.float64) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).astype(np.float32)


SKIN = np.stack(  # from little to much melanin
    [linear(238, 199, 178), linear(226, 180, 152), linear(203, 150, 118), linear(165, 112, 80), linear(116, 74, 52)]
)
HAIR = np.stack(
    [
        linear(32, 27, 26),
        linear(58, 40, 31),
        linear(94, 63, 42),
        linear(150, 108, 64),
        linear(198, 163, 110),
        linear(142, 66, 36),
        linear(150, 146, 142),
    ]
)
IRIS = np.stack(
    [linear(84, 54, 34), linear(52, 34, 24), linear(110, 124, 84), linear(98, 132, 158), linear(140, 150, 156)]
)


@dataclass(frozen=True)
class Traits:
    skin: np.ndarray  # [3] albedo
    melanin: float  # 0 fair .. 1 dark
    flush: float  # redness of cheeks, nose and ears
    blotch: float  # strength of the uneven skin
    freckles: float  # 0 none .. 1 many
    moles: int
    hair: np.ndarray  # [3] albedo
    hair_volume: float  # cm, thickness of the hair on top; 0 = shaved
    hair_sides: float  # share of that thickness on the sides
    hair_part: float  # -1..1, side of the parting
    hairline: float  # cm, up = receding
    hair_fringe: float  # cm, depth of the ragged strands at the hairline
    brow: np.ndarray  # [3] albedo
    brow_width: float  # cm, half height of the brow
    brow_density: float  # 0..1
    brow_lift: float  # cm
    beard: str  # "none", "stubble", "moustache", "goatee" or "full"
    beard_density: float
    lips: np.ndarray  # [3] albedo
    lip_gloss: float
    makeup: float  # eyeliner and eye shadow, 0..1
    iris: np.ndarray  # [3] albedo
    iris_radius: float  # cm
    pupil_radius: float  # cm
    age: float  # 0..1, resting wrinkles
    oil: float  # strength of the highlights
    offset: np.ndarray  # [3] cells, where this subject sits in the noise


def sample_traits(rng: np.random.Generator) -> Traits:
    melanin = float(rng.beta(1.1, 1.4))
    skin = _along(SKIN, melanin) * rng.uniform(0.93, 1.05)
    skin = skin * np.array([1.0, rng.uniform(0.95, 1.04), rng.uniform(0.9, 1.06)])
    dark_hair = rng.random() < 0.25 + 0.75 * melanin
    hair = HAIR[rng.choice(2 if dark_hair else len(HAIR))] * rng.uniform(0.85, 1.2)
    masculine = rng.random() < 0.6
    beard = str(rng.choice(["none", "stubble", "moustache", "goatee", "full"], p=[0.3, 0.3, 0.1, 0.12, 0.18]))
    beard = beard if masculine else "none"
    lips = skin * np.array([0.86, 0.52, 0.55]) * rng.uniform(0.85, 1.1)
    if not masculine:
        painted = np.stack([linear(168, 52, 56), linear(190, 84, 92), linear(150, 70, 70)])[rng.integers(3)]
        lips = lips + rng.uniform(0.2, 0.8) * (painted - lips)
    return Traits(
        skin=skin.astype(np.float32),
        melanin=melanin,
        flush=rng.uniform(0.4, 1.0) * (1 - 0.6 * melanin),
        blotch=rng.uniform(0.6, 1.3),
        freckles=float(rng.uniform(0.3, 1.0) if rng.random() < 0.35 and melanin < 0.6 else 0),
        moles=int(rng.integers(2, 12)),
        hair=hair.astype(np.float32),
        hair_volume=float(rng.uniform(0.25, 1.3)),
        hair_sides=float(rng.uniform(0.25, 1.0)),
        hair_part=float(rng.uniform(-1, 1)),
        hairline=float(rng.normal(0, 0.5)),
        hair_fringe=float(rng.uniform(0.25, 0.8)),
        brow=(hair * rng.uniform(0.6, 0.95) * 0.9).astype(np.float32),
        brow_width=float(rng.uniform(0.3, 0.46) if masculine else rng.uniform(0.2, 0.34)),
        brow_density=float(rng.uniform(0.65, 1.0)),
        brow_lift=float(rng.normal(0, 0.08)),
        beard=beard,
        beard_density=float(rng.uniform(0.5, 1.0)),
        lips=lips.astype(np.float32),
        lip_gloss=float(rng.uniform(0.1, 0.35) if masculine else rng.uniform(0.2, 0.7)),
        makeup=float(0 if masculine else rng.uniform(0.2, 1.0)),
        iris=(IRIS[rng.choice(2 if melanin > 0.55 else len(IRIS))] * rng.uniform(0.8, 1.25)).astype(np.float32),
        iris_radius=float(rng.uniform(0.57, 0.63)),
        pupil_radius=float(rng.uniform(0.19, 0.28)),
        age=float(rng.beta(1.2, 2.0)),
        oil=float(rng.uniform(0.5, 1.3)),
        offset=rng.uniform(0, 64, 3),
    )


def _along(anchors: np.ndarray, where: float) -> np.ndarray:
    """Colour at `where` 0..1 on the line through the anchors."""
    x = where * (len(anchors) - 1)
    k = min(int(x), len(anchors) - 2)
    return anchors[k] + (x - k) * (anchors[k + 1] - anchors[k])
