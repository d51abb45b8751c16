"""Meshes of a track: the same whichever rows an earlier session made, and where the head is."""

from __future__ import annotations

import numpy as np
import pytest

from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.morphable import open_morphable
from davatar.headmodel.track import Track
from davatar.tracking.outputs import FOLLOWED, MeshWriter
from davatar.tracking.passes import SKIPPED

ROWS = FOLLOWED + 2


@pytest.fixture(scope="module")
def opening() -> Track:
    """A mean head that opens its mouth; one row was skipped."""
    model = HeadModel.from_pretrained("open")
    identity, expression = (code.numpy() for code in model.codes(np.zeros(100), np.zeros(53)))
    expressions = np.repeat(expression[None], ROWS, 0)
    expressions[:, open_morphable().expression_index["jawOpen"]] += np.linspace(0, 0.5, ROWS)
    flag = np.zeros(ROWS, np.uint8)
    flag[1] = SKIPPED
    return Track(
        identity=identity,
        expression=expressions,
        rotation=np.repeat(np.eye(3)[None], ROWS, 0),
        translation=np.linspace([0, 0, 0.5], [0, 0, 0.6], ROWS),
        scale=1.0,
        frames=np.arange(ROWS),
        residual_mm=np.zeros(ROWS),
        coverage=np.ones(ROWS),
        flag=flag,
        morphable_identity=np.zeros(100),
        morphable_expression=np.zeros((ROWS, 53)),
        morphable_rotation=np.repeat(np.eye(3)[None], ROWS, 0),
        morphable_translation=np.zeros((ROWS, 3)),
    )


def test_a_mesh_does_not_depend_on_what_was_made_before(opening):
    """Rows of one session against rows asked for alone, as after a kill; across the border of two groups too."""
    whole = MeshWriter(opening, "open", 24)
    made = {row: whole.mesh(row) for row in range(ROWS) if row != 1}
    for row in (2, FOLLOWED, FOLLOWED + 1):
        alone = MeshWriter(opening, "open", 24).mesh(row)
        np.testing.assert_array_equal(alone.vertices, made[row].vertices)
        np.testing.assert_array_equal(alone.triangles, made[row].triangles)
    center = made[ROWS - 1].vertices.mean(0)
    assert abs(center[2] - 0.6) < 0.12, "the mesh lies where the track says"
    again = whole.mesh(2)  # back to an earlier row
    np.testing.assert_array_equal(again.vertices, made[2].vertices)
