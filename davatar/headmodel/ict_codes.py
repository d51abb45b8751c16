"""Codes of the open head model as a fixed linear image of the morphable model's coefficients.

Nothing is learnt here: the global code holds the first 64 identity coefficients times their RMS
displacement in mm; each member's local code holds, in mm, the components of the displacement
field around its anchor that the anchor's own motion does not explain; an expression coefficient is
scaled by how far its shape moves. So every morphable head has a code, and a code close to that
plane has coefficients again (least squares). Head-model units; 1 unit = 250 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from davatar.headmodel.ict_surface import MM, canonical_expression
from davatar.headmodel.morphable import UNITS_PER_METRE, MorphableModel, open_morphable, to_head_units

GLOBAL, LOCAL, PAIRS = 64, 32, 16
WINDOW = 0.09  # head-model units, standard deviation of the Gaussian window around an anchor

MEAN_ANCHORS = np.array(
    [
        [-0.09572113, -0.21104599, 0.15062236], [0.09394196, -0.21063671, 0.14713503],
        [-0.27058325, -0.09649584, -0.03983632], [0.27018219, -0.09536005, -0.04107555],
        [-0.13103254, -0.27260113, 0.11095426], [0.13045588, -0.27369810, 0.10898980],
        [-0.20261045, -0.08105627, 0.11462119], [0.20563595, -0.07857819, 0.11414682],
        [-0.14529945, 0.14763100, 0.17730734], [0.14911115, 0.15244818, 0.17677559],
        [-0.07176772, 0.07044070, 0.14229031], [0.07318501, 0.07019677, 0.14193753],
        [-0.17646717, 0.07451859, 0.11864712], [0.17864588, 0.07406344, 0.11864272],
        [-0.07036027, -0.08031898, 0.18046070], [0.07037337, -0.08041190, 0.18038942],
        [-0.22110558, -0.26466488, -0.07530505], [0.22003962, -0.26647533, -0.07679932],
        [-0.26242413, 0.07232815, 0.02197402], [0.26258059, 0.07659518, 0.01958743],
        [-0.28839857, -0.00536854, -0.21355589], [0.28872211, -0.00522416, -0.21110512],
        [-0.15973065, 0.33981213, 0.10510748], [0.15778881, 0.33972885, 0.10087701],
        [-0.20073093, 0.45385151, -0.14084401], [0.19409374, 0.45460266, -0.14437568],
        [0.20261459, 0.24400352, -0.52358452], [-0.21071150, 0.24390631, -0.52146618],
        [0.17727537, -0.16984859, -0.36530190], [-0.15131843, -0.16633976, -0.40788925],
        [-0.28751596, -0.45776909, -0.39076694], [0.28479130, -0.45604195, -0.39027412],
        [-0.00208694, -0.45162663, -0.04968102], [0.00127655, -0.04602872, 0.28405413],
        [0.00167267, -0.24048021, 0.19067060], [0.00002518, -0.15799849, 0.23157537],
        [0.00074327, 0.06258396, 0.21466539], [0.00109413, 0.19817593, 0.20403307],
        [0.00076550, -0.37129185, 0.15440715],
    ]
)  # fmt: skip
"""[39, 3] published mean anchors, head-model units (spec dphm 9.1)."""


@dataclass(frozen=True)
class CodeMaps:
    identity: np.ndarray  # [1344, 100] float32, identity code = identity @ coefficients
    expression: np.ndarray  # [53] float32, expression code = expression * coefficients
    anchors: np.ndarray  # [39, 3] float32, mean anchors in the canonical pose
    anchor_identity: np.ndarray  # [39, 3, 64] float32, anchor motion per unit of global code
    anchor_expression: np.ndarray  # [39, 3, 53] float32, anchor motion per unit of expression code


def anchor_vertices(model: MorphableModel) -> np.ndarray:
    """[39] skin vertices nearest to the published mean anchors, mirror pairs exactly mirrored."""
    points = to_head_units(model.neutral)
    skin = np.flatnonzero(model.in_regions("face", "head_and_neck"))
    middle = skin[np.abs(points[skin, 0]) < 1e-3]
    out = np.zeros(len(MEAN_ANCHORS), np.int64)
    for slot, anchor in enumerate(MEAN_ANCHORS):
        if slot < 2 * PAIRS and slot % 2 == 1:
            out[slot] = model.mirror_vertex[out[slot - 1]]
            continue
        among = skin if slot < 2 * PAIRS else middle
        out[slot] = among[np.argmin(((points[among] - anchor) ** 2).sum(axis=1))]
    return out


def _local_codes(model: MorphableModel, chosen: np.ndarray) -> np.ndarray:
    """[40, 32, 100] local code of every slot per identity coefficient, mm."""
    skin = np.flatnonzero(model.in_regions("face", "head_and_neck", "mouth_socket"))
    points = to_head_units(model.neutral)
    modes = model.identity.astype(np.float64) * UNITS_PER_METRE / MM  # [100, V, 3] mm
    out = np.zeros((len(chosen) + 1, LOCAL, len(modes)))
    flip = np.array([-1.0, 1.0, 1.0])

    def field(slot: int, near: np.ndarray, root: np.ndarray) -> np.ndarray:
        moved = modes[:, near].copy()
        moved[:GLOBAL] -= modes[:GLOBAL, chosen[slot]][:, None]
        return (moved * root[None, :, None]).reshape(len(modes), -1).T  # [3 * near, 100]

    for slot in list(range(0, 2 * PAIRS, 2)) + list(range(2 * PAIRS, len(chosen))):
        weight = np.exp(-0.5 * ((points[skin] - points[chosen[slot]]) ** 2).sum(axis=1) / WINDOW**2)
        near, weight = skin[weight > 0.01], weight[weight > 0.01]
        root = np.sqrt(weight / weight.sum())
        fields = [field(slot, near, root)]
        if slot < 2 * PAIRS:
            other = field(slot + 1, model.mirror_vertex[near], root)
            fields.append((other.reshape(-1, 3, len(modes)) * flip[None, :, None]).reshape(-1, len(modes)))
        both = np.concatenate(fields, axis=1)
        energy, vectors = np.linalg.eigh(both.T @ both)  # ascending
        top = vectors[:, ::-1][:, :LOCAL] / np.sqrt(energy[::-1][:LOCAL])
        for side, values in enumerate(fields):
            out[slot + side] = (both @ top).T @ values
    rest = modes[:, skin].copy()
    rest[:GLOBAL] = 0.0
    rest = rest.reshape(len(modes), -1).T / np.sqrt(len(skin))
    values, vectors = np.linalg.eigh(rest.T @ rest)
    out[-1] = (np.sqrt(np.maximum(values, 0))[:, None] * vectors.T)[::-1][:LOCAL]
    return out


def code_maps(model: MorphableModel) -> CodeMaps:
    """The fixed maps, rounded to half precision so that the stored weights hold them exactly."""
    chosen = anchor_vertices(model)
    rms = np.sqrt((model.identity.astype(np.float64) ** 2).sum(axis=2).mean(axis=1)) * UNITS_PER_METRE / MM
    top = np.zeros((GLOBAL, len(model.identity)))
    top[:, :GLOBAL] = np.diag(rms[:GLOBAL])
    identity = np.concatenate([top, _local_codes(model, chosen).reshape(-1, len(model.identity))])
    largest = np.linalg.norm(model.expression, axis=2).max(axis=1) * 1000.0
    expression = np.clip(largest / 10.0, 0.3, 1.5).astype(np.float16).astype(np.float32)
    mean = model.vertices(np.zeros(len(model.identity)), canonical_expression(model))[chosen]
    per_identity = UNITS_PER_METRE * model.identity[:GLOBAL, chosen].transpose(1, 2, 0) / rms[:GLOBAL]
    per_expression = UNITS_PER_METRE * model.expression[:, chosen].transpose(1, 2, 0) / expression
    return CodeMaps(
        identity=identity.astype(np.float16).astype(np.float32),
        expression=expression,
        anchors=to_head_units(mean).astype(np.float32),
        anchor_identity=per_identity.astype(np.float32),
        anchor_expression=per_expression.astype(np.float32),
    )


@lru_cache(maxsize=1)
def open_code_maps() -> CodeMaps:
    """`code_maps` of the morphable model that ships (seconds the first time; shared afterwards)."""
    return code_maps(open_morphable())
