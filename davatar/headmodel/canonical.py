"""Where a point of the face lives in the neural texture: canonical coordinates, head-model units.

One definition for every source. A tracked mesh carries what the head model's backward deformation says
(`Mesh.canonical`): the point on *this identity's* head in the canonical pose, mouth and lids slightly
open. A vertex of the morphable model gets the same place from its own identity in the same pose, so an
avatar trained on one source can be painted on the other.
"""

from __future__ import annotations

import numpy as np

from davatar.headmodel.ict_surface import canonical_expression
from davatar.headmodel.morphable import MorphableModel, to_head_units


def canonical_vertices(model: MorphableModel, identity: np.ndarray) -> np.ndarray:
    """Identity coefficients [..., 100] -> canonical coordinates [..., V, 3] float32, head-model units."""
    return to_head_units(model.vertices(identity, canonical_expression(model))).astype(np.float32)
