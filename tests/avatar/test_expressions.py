"""Tables of expressions over time, and what they do to a tracked person."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from davatar.avatar.expressions import Expressions, read_expressions, through_keys
from davatar.avatar.posing import Motion, expressed_motion
from davatar.core.errors import DataError, MissingError
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.morphable import open_morphable

FRAMES = 3
JAW = open_morphable().expression_names.index("jawOpen")


@pytest.fixture
def table(tmp_path):
    def write(text: str):
        (tmp_path / "table.csv").write_text(text)
        return tmp_path / "table.csv"

    return write


def test_keys_are_reached_and_never_overshot(table):
    found = read_expressions(table("time,jawOpen,mouthSmile\n0,0,\n1,1,0.5\n1.5,0.2,\n3,0.2,\n"))
    assert found.frames(10) == 31
    curve = found.at(35, 10)
    np.testing.assert_allclose(curve[[0, 10, 15, 30, 34], JAW], [0, 1, 0.2, 0.2, 0.2])
    assert curve[:, JAW].min() >= 0 and curve[:, JAW].max() <= 1
    np.testing.assert_allclose(curve[15:, JAW], 0.2)  # flat between equal keys
    smile = [open_morphable().expression_names.index(f"mouthSmile_{side}") for side in "LR"]
    np.testing.assert_allclose(curve[:, smile], 0.5)  # one key holds for all time
    assert (np.delete(curve, [JAW, *smile], axis=1) == 0).all()


def test_a_tracks_own_table_comes_back(tmp_path, tracked):
    from davatar.tracking.outputs import write_arkit

    track = replace(tracked(3), morphable_expression=np.random.default_rng(3).uniform(0, 0.8, (FRAMES, 53)))
    write_arkit(tmp_path, track, [k / 24 for k in range(FRAMES)])
    found = read_expressions(tmp_path / "arkit.csv")
    np.testing.assert_allclose(found.at(FRAMES, 24), track.morphable_expression, atol=2e-3)


def test_spreadsheets_write_semicolons_and_a_mark(table):
    found = read_expressions(table("\ufeffframe;jawOpen\n0;0.1\n24;0.5\n\n"))
    np.testing.assert_allclose(found.times, [0, 1])


@pytest.mark.parametrize(
    "text, said",
    [
        ("time,jawOpn\n0,1\n", "column 'jawOpn' is no expression .did you mean jawOpen"),
        ("time,jawOpen\n0,wide\n", "row 2, column jawOpen: 'wide' is no number"),
        ("time,jawOpen\n0,nan\n", "row 2, column jawOpen: nan is not finite"),
        ("jawOpen\n1\n", "neither a column time nor a column frame"),
        ("time,jawOpen\n1,0\n0,1\n", "times must rise, found 1 s before 0 s .sort the rows"),
        ("time,jawOpen\n,0\n", "row 2 has no time"),
        ("time,jawOpen\n0,80\n", "a weight of 80 .weights run from 0 to 1"),
        ("time,jawOpen\n", "needs a header and at least one row"),
    ],
)
def test_a_broken_table_says_where(table, text, said):
    with pytest.raises(DataError, match=said) as caught:
        read_expressions(table(text))
    assert caught.value.file.endswith("table.csv")


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(MissingError, match="arkit.csv"):
        read_expressions(tmp_path / "none.csv")


def test_codes_and_weights_say_the_same(tracked):
    model = HeadModel.from_pretrained("open")
    weights = np.zeros((1, 53))
    weights[0, JAW] = 0.7
    codes = model.codes(np.zeros(100), weights)[1].numpy()
    keyed = through_keys(codes)
    linear = tracked(1)
    moved = expressed_motion(keyed, linear, keyed.frames(10), 10)
    np.testing.assert_allclose(moved.weights[10], weights[0], atol=1e-5)
    np.testing.assert_allclose(moved.weights[[0, 20]], 0, atol=1e-6)
    assert moved.codes.shape == (21, 0)  # this person was tracked without codes
    np.testing.assert_allclose(moved.rotation, moved.rotation[:1].repeat(21, 0))
    with pytest.raises(DataError, match="codes have 4 numbers"):
        expressed_motion(through_keys(np.zeros((1, 4))), linear, 2, 10)


def test_poses_of_a_driver_are_kept_and_held(tracked):
    track = tracked(2)
    poses = Motion(track.expression, track.morphable_expression, track.rotation, track.translation)
    told = Expressions(np.array([0.0]), np.zeros((1, 53)), "weights")
    moved = expressed_motion(told, track, FRAMES + 2, 24, poses)
    np.testing.assert_array_equal(moved.translation[:FRAMES], track.translation)
    np.testing.assert_array_equal(moved.translation[-1], track.translation[-1])
