from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from davatar.capture.synthetic.rig import TARGET, Rig, look_at
from davatar.capture.synthetic.script import EXPRESSIONS, Event, ExpressionScript, head_pose, shape_weights
from davatar.capture.synthetic.sensor import SensorNoise, fixed_pattern, measure
from davatar.capture.synthetic.subject import Subject
from davatar.capture.synthetic.template import SKIN, template_of
from davatar.capture.synthetic.view import LABEL_EYE, LABEL_HAIR, LABEL_MOUTH, LABEL_SKIN, film, render_view
from davatar.core.errors import DataError
from davatar.raster.embree import EmbreeRasterizer

STILL = np.zeros(2)
CAMERA = look_at(1.0, 15.0, 4.0, 64, 64, 64 / 0.28)


def test_the_picture_shows_exactly_the_condition_mesh(subject, model):
    weights, pose = model.weights(mouthSmile=0.7, browInnerUp=0.5), head_pose(12, -4, 3, np.array([0.01, 0, 0]))
    view = render_view(subject, weights, STILL, pose, CAMERA)
    maps = EmbreeRasterizer().rasterize(subject.condition_mesh(weights, pose), CAMERA, subpixels=3)
    np.testing.assert_array_equal(np.isfinite(view.depth), maps.mask)
    skin = (view.label == LABEL_SKIN) | (view.label == LABEL_HAIR)
    assert skin.sum() > 800
    np.testing.assert_allclose(view.depth[skin], maps.depth[skin], atol=1e-5)
    border = np.s_[1:-1, 1:-1]  # a sub-ray may graze the rim by rounding
    np.testing.assert_allclose(view.share[border], maps.coverage[border], atol=0.12)
    inside = maps.mask & (maps.coverage == 1)
    template = model.template[subject.template.used]
    low, high = template.min(axis=0), template.max(axis=0)
    assert (maps.canonical[inside] >= low - 1e-5).all() and (maps.canonical[inside] <= high + 1e-5).all()


def test_colour_fades_to_white_with_alpha(subject, model):
    view = render_view(subject, model.weights(), STILL, np.eye(4), CAMERA)
    assert (view.color[view.alpha == 0] == 255).all()
    assert 0.3 < view.alpha.mean() < 0.8 and view.alpha.max() == 1
    assert view.color[view.alpha > 0.99].mean() < 215


def test_head_and_camera_moved_together_show_the_same_shape(subject, model):
    posed = subject.pose(model.weights(jawOpen=0.4), STILL)
    move = head_pose(40, 10, -20, np.array([0.3, -0.2, 0.1]))
    here = film(posed, np.eye(4), CAMERA)
    there = film(posed, move, CAMERA.moved(CAMERA.world_to_camera @ np.linalg.inv(move)))
    np.testing.assert_allclose(there.alpha, here.alpha, atol=0.12)
    both = np.isfinite(here.depth) & np.isfinite(there.depth)
    assert both.sum() > 0.99 * np.isfinite(here.depth).sum()
    assert np.median(np.abs(here.depth - there.depth)[both]) < 1e-6


def test_open_mouth_shows_its_inside_and_the_gaze_turns_only_the_eyes(subject, model):
    camera = look_at(0.5, 0, 0, 96, 96, 96 * 0.5 / 0.2)
    weights = model.weights(jawOpen=0.8)
    straight = render_view(subject, weights, STILL, np.eye(4), camera)
    aside = render_view(subject, weights, np.array([0.4, 0.0]), np.eye(4), camera)
    assert (straight.label == LABEL_MOUTH).sum() > 40 and (straight.label == LABEL_EYE).sum() > 30
    changed = (straight.color.astype(int) - aside.color).any(axis=-1)
    near_eyes = (straight.label == LABEL_EYE) | (aside.label == LABEL_EYE)
    grown = sum(np.roll(near_eyes, (a, b), (0, 1)) for a in (-1, 0, 1) for b in (-1, 0, 1)) > 0
    assert changed.sum() > 20 and not (changed & ~grown).any()


def test_blinks_hide_the_eyes(subject, model):
    camera = look_at(0.5, 0, 0, 128, 128, 600)
    visible = [
        (render_view(subject, model.weights(eyeBlink=lid), STILL, np.eye(4), camera).label == LABEL_EYE).sum()
        for lid in (0.0, 0.5, 1.0)
    ]
    assert visible[0] > visible[1] > 0 and visible[2] < 0.12 * visible[0]  # the model leaves a slit in some faces


def test_expressions_draw_wrinkles_beyond_the_motion_of_the_surface(subject, model):
    weights = model.weights(browInnerUp=1.0, browOuterUp=1.0)
    posed, smooth = subject.pose(weights, STILL), subject.pose(weights, STILL)
    smooth.creases = np.zeros_like(smooth.creases)
    with_lines, without = film(posed, np.eye(4), CAMERA), film(smooth, np.eye(4), CAMERA)
    np.testing.assert_array_equal(with_lines.depth, without.depth)
    darker = without.color.astype(int).sum(-1) - with_lines.color.astype(int).sum(-1)
    assert darker.max() > 25


def test_the_same_seed_is_the_same_person_and_another_is_not(model, subject):
    again = Subject.sample(model, seed=3, detail=0.4)
    np.testing.assert_array_equal(again.neutral, subject.neutral)
    np.testing.assert_array_equal(again.paint.values, subject.paint.values)
    other = Subject.sample(model, seed=4, detail=0.4)
    assert np.abs(other.neutral - subject.neutral).max() > 0.003
    assert not np.allclose(other.traits.skin, subject.traits.skin)


def test_wrong_codes_are_refused(model, subject):
    with pytest.raises(DataError, match="expected \\[53\\] finite"):
        subject.pose(np.zeros(52), STILL)
    with pytest.raises(DataError, match="expected \\[53\\] finite"):
        subject.condition_mesh(np.full(53, np.nan))
    with pytest.raises(DataError, match="identity has shape"):
        Subject.make(model, np.zeros(7), subject.traits, 0)


@given(st.integers(0, 10**6))
def test_paint_samples_reproduce_a_linear_function(model, seed):
    template = template_of(model)
    lattice = template.lattice(0.4)
    rng = np.random.default_rng(seed)
    triangle = rng.choice(np.nonzero(template.part == SKIN)[0], 50)
    bary = rng.dirichlet([1, 1, 1], 50).astype(np.float32)
    expected = np.einsum("nk,nkc->nc", bary, template.points[template.triangles[triangle]])
    rows, weights = lattice.find(triangle, bary)
    np.testing.assert_allclose(
        np.einsum("nk,nkc->nc", weights, lattice.samples.points[rows]), expected, atol=2e-5 * np.abs(expected).max()
    )
    near = lattice.samples.points[lattice.nearest(triangle, bary)]
    assert np.linalg.norm(near - expected, axis=1).max() < 0.45


def test_the_slope_of_a_plane_is_its_gradient_along_the_surface(model):
    template = template_of(model)
    lattice = template.lattice(0.4)
    gradient = np.float32([0.3, -0.2, 0.5])
    slope = lattice.slope(lattice.samples.points @ gradient)
    corners = template.points[template.triangles[lattice.triangle]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1)
    regular = length > 1e-3  # slivers have no well-defined plane in float32
    normal = normal[regular] / length[regular, None]
    expected = gradient - (normal @ gradient)[:, None] * normal
    assert np.abs(slope[regular] - expected).max() < 0.02


def test_rig_cameras_look_at_the_head():
    rig = Rig.single().joined(Rig.arc(16))
    assert len(rig) == 17 and len(set(rig.serials)) == 17
    for camera in rig.cameras:
        pixel, depth = camera.project(TARGET)
        np.testing.assert_allclose(pixel, [(camera.width - 1) / 2, (camera.height - 1) / 2], atol=1e-6)
        assert depth == pytest.approx(0.6 if camera.width == 640 else 1.0)
        assert camera.project(TARGET + [0, 0.05, 0])[0][1] < pixel[1]  # upright
    with pytest.raises(DataError, match="films nothing"):
        Rig.arc(0)
    with pytest.raises(DataError, match="distinct serial"):
        Rig(rig.cameras[:2], ("00", "00"))


@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([7.5, 10.0, 30.0]))
def test_scripts_are_possible_and_repeatable(model, seed, frames, fps):
    names = model.expression_names
    script = ExpressionScript.performance(names, frames, seed, fps=fps)
    assert script.weights.shape == (frames, 53) and script.weights.min() >= 0 and script.weights.max() <= 1
    np.testing.assert_allclose(np.linalg.det(script.head_to_world[:, :3, :3]), 1, atol=1e-9)
    again = ExpressionScript.performance(names, frames, seed, fps=fps)
    np.testing.assert_array_equal(script.weights, again.weights)
    np.testing.assert_array_equal(script.head_to_world, again.head_to_world)


def test_a_long_performance_visits_every_expression(model):
    script = ExpressionScript.performance(model.expression_names, 500, seed=1, fps=10)
    used = np.nonzero(sum(shape_weights(model.expression_names, name) for name in EXPRESSIONS))[0]
    assert (script.weights[:, used].max(axis=0) > 0.1).all()
    assert np.abs(np.diff(script.weights, axis=0)).max() <= 1


def test_events_peak_where_they_are_placed(model):
    names = list(model.expression_names)
    script = ExpressionScript.scripted(names, 21, [Event("jaw_open", 1.0, 0.5)], fps=10, motion=0)
    jaw = script.weights[:, names.index("jawOpen")]
    assert jaw.argmax() == 10 and jaw[10] == pytest.approx(0.75) and jaw[4] == 0
    np.testing.assert_allclose(script.head_to_world, np.broadcast_to(np.eye(4), (21, 4, 4)), atol=1e-12)
    with pytest.raises(DataError, match="no expression is called 'grimace'"):
        ExpressionScript.scripted(names, 5, [Event("grimace", 0, 1)])


def test_captured_weights_bring_their_gaze(model):
    names = list(model.expression_names)
    weights = np.zeros((4, 53))
    weights[2, [names.index("eyeLookOut_L"), names.index("eyeLookIn_R")]] = 0.5
    script = ExpressionScript.from_weights(weights, names, fps=30)
    assert script.gaze[2, 0] > 0.2 and script.gaze[2, 1] == 0 and (script.gaze[[0, 1, 3]] == 0).all()
    with pytest.raises(DataError, match=r"expected \[T, 53\]"):
        ExpressionScript.from_weights(np.zeros((4, 50)), names, fps=30)


def test_the_sensor_is_as_noisy_as_it_says(subject, model):
    camera = look_at(0.6, 0, 0, 160, 160, 420)
    view = render_view(subject, model.weights(), STILL, np.eye(4), camera)
    noise = SensorNoise()
    pattern = fixed_pattern(noise, view.depth.shape, np.random.default_rng(0))
    assert pattern.std() == pytest.approx(noise.pattern, rel=0.5)
    measured = measure(view, noise, pattern, np.random.default_rng(1)) * noise.step
    skin = (view.label == LABEL_SKIN) & (view.facing > 0.7) & (view.share == 1) & (view.spread < 0.002)
    got = skin & (measured > 0)
    assert got.sum() / skin.sum() > 0.95
    error = measured[got] - view.depth[got]
    assert 0.0005 < error.std() < 0.002 and abs(error.mean()) < 0.0006
    assert (measured[view.share < 0.3] == 0).all()


def test_a_perfect_sensor_only_rounds(subject, model):
    view = render_view(subject, model.weights(), STILL, np.eye(4), CAMERA)
    noise = SensorNoise(scale=0)
    measured = measure(view, noise, np.zeros(view.depth.shape), np.random.default_rng(0))
    np.testing.assert_array_equal(measured > 0, np.isfinite(view.depth))
    assert np.nanmax(np.abs(measured * noise.step - view.depth)[measured > 0]) <= 0.00051
    with pytest.raises(DataError, match="sigma is -1"):
        SensorNoise(sigma=-1)
