"""The batteries accept what keeps the contract and name what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from davatar.capture.frame import Frame
from davatar.core import plugins
from davatar.core.errors import VerificationError
from davatar.geometry.camera import Camera
from davatar.testing import check_capture, check_metric, check_opener, check_plugin, check_rasterizer


@pytest.mark.parametrize("name", plugins.names("davatar.metrics"))
def test_every_installed_metric_keeps_its_contract(name):
    assert check_plugin("davatar.metrics", name) == "imports and passes check_metric"


@pytest.mark.parametrize("name", plugins.names("davatar.rasterizers"))
def test_every_installed_rasterizer_keeps_its_contract(name):
    assert check_plugin("davatar.rasterizers", name) == "imports and passes check_rasterizer"


@pytest.mark.parametrize("name", plugins.names("davatar.captures"))
def test_every_installed_reader_declines_an_empty_folder(name):
    assert check_plugin("davatar.captures", name) == "imports and declines an empty folder"


@pytest.mark.parametrize("name", plugins.names("davatar.scans"))
def test_every_installed_source_of_scans_keeps_its_contract(name):
    wanted = "imports and passes check_scans" if name == "ict" else "imports and refuses an empty folder"
    assert check_plugin("davatar.scans", name) == wanted


class Difference:
    """Mean absolute error, kept and broken in single ways."""

    name, higher_is_better = "difference", False

    def __call__(self, prediction, target, mask=None):
        error = (prediction - target).abs().mean(1)
        return (error.mean() if mask is None else (error * mask).sum() / mask.sum()).item()


def broken(**parts):
    return type("Broken", (Difference,), parts)()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (broken(name=None), "metric.name is None"),
        (broken(higher_is_better="no"), "higher_is_better is 'no'"),
        (broken(higher_is_better=True), "higher should be better"),
        (broken(__call__=lambda self, p, t, m=None: Difference()(p, t)), "by an error outside the mask"),
        (broken(__call__=lambda self, p, t, m=None: (p - t).abs().mean()), "returned a Tensor, expected a float"),
        (broken(__call__=lambda self, p, t, m=None: float("nan")), "returned nan"),
        (broken(__call__=lambda self, p, t, m=None: Difference()(p.mul_(0.9), t, m)), "writes into the pictures"),
    ],
)
def test_a_broken_metric_is_told_what_is_wrong(metric, message):
    check_metric(Difference())
    with pytest.raises(VerificationError, match=message):
        check_metric(metric)


def _changed(change):
    from davatar.raster.embree import EmbreeRasterizer

    class Changed(EmbreeRasterizer):
        def rasterize(self, mesh, camera, *, subpixels=0):
            return change(super().rasterize(mesh, camera, subpixels=subpixels))

    return Changed


class Corners:
    """A backend that forgets that pixel centres are at integers."""

    name = "corners"

    def rasterize(self, mesh, camera, *, subpixels=0):
        from davatar.raster.embree import EmbreeRasterizer

        K = camera.K.copy()
        K[:2, 2] -= 0.5
        return EmbreeRasterizer().rasterize(mesh, replace(camera, K=K), subpixels=subpixels)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (_changed(lambda m: replace(m, depth=m.depth.astype(np.float64))), r"depth is float64 \[24, 32\]"),
        (_changed(lambda m: replace(m, depth=m.depth * 1.01)), "depth of a frontal plane"),
        (_changed(lambda m: replace(m, normal=-m.normal)), "normal of a plane"),
        (_changed(lambda m: replace(m, barycentric=m.barycentric[..., ::-1].copy())), "point from triangle"),
        (_changed(lambda m: replace(m, depth=np.where(m.mask, m.depth, np.float32(9)))), "depth is not 0 where"),
        (_changed(lambda m: replace(m, triangle=m.triangle.astype(np.int64))), "triangle is int64"),
        (Corners, "canonical"),
    ],
)
def test_a_broken_rasterizer_is_told_what_is_wrong(factory, message):
    with pytest.raises(VerificationError, match=message):
        check_rasterizer(factory)


class Recording:
    name, fps, provenance, views = "toy", 30.0, {}, ("a", "b")
    camera = Camera.pinhole(10, 10, 3.5, 2.5, width=8, height=6)

    def __len__(self):
        return 3

    def frame(self, index, view=None):
        depth = np.full((6, 8), 0.5 + 0.1 * index + 0.01 * (view or "a").count("b"), np.float32)
        depth[0] = np.nan
        return Frame(index, index / 30, self.camera, depth, np.zeros((6, 8, 3), np.uint8))


def spoiled(**parts):
    class Spoiled(Recording):
        def frame(self, index, view=None):
            return replace(super().frame(index, view), **parts)

    return Spoiled()


@pytest.mark.parametrize(
    ("capture", "message"),
    [
        (spoiled(depth=np.full((6, 8), 0.5)), r"depth is float64 \[6, 8\]"),
        (
            spoiled(depth=np.full((8, 6), 0.5, np.float32)),
            r"depth is float32 \[8, 6\], the camera says float32 \[6, 8\]",
        ),
        (spoiled(depth=np.zeros((6, 8), np.float32)), "values <= 0"),
        (spoiled(depth=np.full((6, 8), np.inf, np.float32)), "infinities"),
        (spoiled(depth=None, color=None), "neither depth nor colour"),
        (spoiled(color=np.zeros((6, 8, 3))), "color is float64"),
        (spoiled(index=7), "says its index is 7"),
        (spoiled(landmarks=np.zeros((5, 2))), r"landmarks are \[5, 2\]"),
        (type("Empty", (Recording,), {"__len__": lambda self: 0})(), "has no frame"),
        (type("Twins", (Recording,), {"views": ("a", "a")})(), "same serial"),
    ],
)
def test_a_broken_capture_is_told_what_is_wrong(capture, message):
    check_capture(Recording())
    with pytest.raises(VerificationError, match=message):
        check_capture(capture)


def test_an_opener_takes_its_own_layout_and_declines_others(tmp_path):
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    own.mkdir(), foreign.mkdir()
    check_opener(lambda path: Recording() if path == own else None, own, foreign)
    with pytest.raises(VerificationError, match="was declined"):
        check_opener(lambda path: None, own, foreign)
    with pytest.raises(VerificationError, match="was not declined"):
        check_opener(lambda path: Recording(), own, foreign)
