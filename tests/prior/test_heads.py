from inspect import signature

import numpy as np
import pytest
import torch

from davatar.cli.prior import sample
from davatar.core.errors import DataError, UsageError
from davatar.core.progress import silent
from davatar.diffusion.schedule import cosine_schedule
from davatar.geometry.mesh import Mesh, read_ply
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.morphable import open_morphable
from davatar.prior.code_prior import CodePrior
from davatar.prior.gallery import preview, write_heads, write_walk
from davatar.prior.heads import SampledCodes, meshes, morphable_meshes, sample_codes, walk
from davatar.prior.network import NetworkConfig, build_network
from davatar.prior.normalization import LinearNormalization
from davatar.prior.portrait import MIDDLE, portrait, sheet
from davatar.raster.embree import EmbreeRasterizer


class Balls:
    """A head model whose heads are balls; the first number of the identity code sets the radius."""

    identity_size, expression_size, hash, maps = 5, 3, "balls", None
    frame = np.diag([0.25, 0.25, 0.25, 1.0])

    def mesh(self, identity, expression, resolution, previous=None):
        import trimesh

        ball = trimesh.creation.icosphere(3, 0.4 + 0.01 * float(identity[0]))
        return Mesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32))


def _prior(kind, size):
    network = build_network(NetworkConfig("mlp", width=16, blocks=1), 2, seed=0)
    return CodePrior(
        kind, network, cosine_schedule(20), "v_prediction", LinearNormalization(np.zeros(size), np.eye(2, size))
    )


def test_heads_are_written_in_metres(tmp_path):
    head = Balls()
    codes = sample_codes(head, _prior("identity", 5), None, n=3, steps=4)
    assert (codes.expression == 0).all() and codes.identity.shape == (3, 5)
    written = write_heads(tmp_path, head, codes, 16, EmbreeRasterizer(), picture_size=48)
    ball = read_ply(tmp_path / "00002.ply")
    assert np.linalg.norm(ball.vertices, axis=1).max() == pytest.approx(0.1, abs=0.01)
    assert np.load(written["codes"])["identity"].shape == (3, 5)
    assert written["picture"].read_bytes().startswith(b"\x89PNG")
    import trimesh

    same = trimesh.load(tmp_path / "00002.glb", force="mesh")
    assert np.allclose(same.bounds, [ball.vertices.min(axis=0), ball.vertices.max(axis=0)], atol=1e-5)


def test_formats_and_the_picture_s_place_are_chosen(tmp_path):
    head = Balls()
    codes = sample_codes(head, _prior("identity", 5), None, n=2, steps=4)
    parts = head, codes, 16, EmbreeRasterizer()
    written = write_heads(tmp_path / "a", *parts, formats=("glb",), grid=tmp_path / "g.jpg", picture_size=32)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"00000.glb", "00001.glb", "codes.npz"}
    assert written["picture"].read_bytes().startswith(b"\xff\xd8")
    with pytest.raises(UsageError, match="no picture file"):
        write_heads(tmp_path / "b", *parts, grid=tmp_path / "g.txt")
    assert not (tmp_path / "b").exists()


class Listener:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.told = []

    def info(self, message):
        self.told.append(message)

    task = staticmethod(silent.task)


def test_a_used_folder_keeps_nothing_of_the_earlier_run_and_all_of_others(tmp_path):
    head, listener = Balls(), Listener()
    codes = sample_codes(head, _prior("identity", 5), None, n=3, steps=4)
    write_heads(tmp_path, head, codes, 16, EmbreeRasterizer(), picture_size=32)
    others = {"notes.txt", "00007.ply", "00001.obj"}
    for name in others:
        (tmp_path / name).write_text("mine")
    fewer = SampledCodes(codes.identity[:2], codes.expression[:2])
    options = {"formats": ("glb",), "grid": tmp_path.parent / "g.png", "picture_size": 32}
    write_heads(tmp_path, head, fewer, 16, EmbreeRasterizer(), listener, **options)
    assert {p.name for p in tmp_path.iterdir()} == {"00000.glb", "00001.glb", "codes.npz", *others}
    assert all((tmp_path / name).read_text() == "mine" for name in others)
    told = "removed what an earlier run wrote there: 00000.glb, 00000.ply, 00001.glb and 5 more"
    assert listener.told == [f"{tmp_path}: {told}"]


@pytest.mark.parametrize("picture", ["elsewhere", "inside"])
def test_a_used_folder_keeps_files_whose_names_an_earlier_run_could_have_given_but_did_not(tmp_path, picture):
    out, codes = tmp_path / "out", sample_codes(Balls(), _prior("identity", 5), None, n=1, steps=4)
    parts = Balls(), codes, 16, EmbreeRasterizer()
    grid = {"elsewhere": tmp_path, "inside": out}[picture] / "g.png"
    write_heads(out, *parts, formats=(), grid=grid, picture_size=32)
    for name in ("00000.ply", "heads.png"):
        (out / name).write_text("mine")
    write_heads(out, *parts, formats=(), grid=tmp_path / "h.png", picture_size=32)
    assert {p.name for p in out.iterdir()} == {"00000.ply", "heads.png", "codes.npz"}
    with pytest.raises(UsageError, match=r"holds 00000.ply, heads.png, which no earlier sampling made"):
        write_heads(out, *parts, formats=("ply",), picture_size=32)


@pytest.mark.parametrize("name", ["00002.ply", "heads.png", "codes.npz"])
def test_files_that_no_run_made_are_never_replaced(tmp_path, name):
    head = Balls()
    codes = sample_codes(head, _prior("identity", 5), None, n=3, steps=4)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=rf"holds {name}, which no earlier sampling made.*--out"):
        write_heads(tmp_path, head, codes, 16, EmbreeRasterizer(), picture_size=32)
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_a_stopped_run_s_files_are_known_to_be_ours(tmp_path):
    class Stops(Balls):
        def mesh(self, identity, expression, resolution, previous=None):
            if (tmp_path / "00000.ply").exists():
                raise KeyboardInterrupt
            return super().mesh(identity, expression, resolution)

    codes = sample_codes(Balls(), _prior("identity", 5), None, n=3, steps=4)
    with pytest.raises(KeyboardInterrupt):
        write_heads(tmp_path, Stops(), codes, 16, EmbreeRasterizer(), picture_size=32)
    fewer = SampledCodes(codes.identity[:1], codes.expression[:1])
    write_heads(tmp_path, Balls(), fewer, 16, EmbreeRasterizer(), formats=(), picture_size=32)
    assert {p.name for p in tmp_path.iterdir()} == {"codes.npz", "heads.png"}


def test_walk_passes_the_same_heads_and_keeps_unit_noise():
    head, prior = Balls(), _prior("identity", 5)
    heads = sample_codes(head, prior, None, n=3, steps=4, seed=2)
    way = sample_codes(head, prior, None, n=3, steps=4, seed=2, between=5)
    assert len(way) == 15 and torch.allclose(way.identity[::5], heads.identity, atol=1e-5)
    noise = walk(torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)), 7)
    assert noise.std(dim=1).sub(1).abs().max() < 0.06
    with pytest.raises(UsageError, match="no smooth walk"):
        sample_codes(head, prior, None, n=3, steps=20, sampler="ancestral", between=5)


def test_walk_becomes_a_video(tmp_path):
    from davatar.avatar.video import video_writer

    way = sample_codes(Balls(), _prior("identity", 5), None, n=2, steps=4, between=3)
    path = write_walk(tmp_path / "w.mp4", Balls(), way, 16, EmbreeRasterizer(), video_writer, picture_size=32)
    import av

    with av.open(str(path)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 6 and file.streams.video[0].codec_context.name == "h264"
    with pytest.raises(UsageError, match="no video file"):
        write_walk(tmp_path / "w.gif", Balls(), way, 16, EmbreeRasterizer(), video_writer)


def test_heads_of_a_video_have_no_holes_by_default():
    """The eighth head of seed 0 smiles: at 96 samples per axis one sees through the corners of its mouth."""
    from scipy.ndimage import binary_fill_holes

    head = HeadModel.from_pretrained("open")
    priors = (CodePrior.from_pretrained(f"open-{kind}") for kind in ("identity", "expression"))
    codes = sample_codes(head, *priors, n=8)
    resolution = signature(sample).parameters["video_resolution"].default
    mesh = next(meshes(head, SampledCodes(codes.identity[7:], codes.expression[7:]), resolution))
    inside = (portrait(mesh, EmbreeRasterizer(), 256, 0) < 255).any(axis=-1)
    assert inside.mean() > 0.2 and (binary_fill_holes(inside) == inside).all()


def test_preview_of_a_model_without_morphable_heads_shows_surfaces(tmp_path):
    preview(tmp_path / "p.png", _prior("joint", 8), Balls(), EmbreeRasterizer(), 2, seed=0)
    import cv2

    picture = cv2.imread(str(tmp_path / "p.png"))
    assert picture.shape[0] == picture.shape[1] and (picture < 255).mean() > 0.1


def test_morphable_meshes_lie_where_the_head_model_s_surfaces_do():
    head = HeadModel.from_pretrained("open")
    rng = np.random.default_rng(0)
    identity, expression = head.codes(rng.normal(size=(1, 100)), np.zeros((1, 53)))
    mesh = next(morphable_meshes(head, SampledCodes(identity, expression)))
    skin = mesh.vertices[open_morphable().sets["narrow_face"][::40]] / float(head.frame[0, 0])
    found = head.sdf(torch.as_tensor(skin, dtype=torch.float32), identity[0], expression[0])
    assert found.abs().mean() * 250 < 2  # mm


def test_joint_prior_is_split_into_both_codes():
    codes = sample_codes(Balls(), _prior("joint", 8), None, n=2, steps=4)
    assert codes.identity.shape == (2, 5) and codes.expression.shape == (2, 3)
    with pytest.raises(UsageError, match="draws expressions itself"):
        sample_codes(Balls(), _prior("joint", 8), _prior("expression", 3), n=2)


def test_prior_of_another_head_model_is_refused():
    with pytest.raises(DataError, match="makes codes of 7 numbers, the head model takes 5"):
        sample_codes(Balls(), _prior("identity", 7), None, n=1)


def test_portrait_shows_the_side_that_is_turned_to_the_camera():
    """A nose at +z is in the middle from the front, and on the image's right when the head turns to its left."""
    ball = Balls().mesh(torch.zeros(5), None, 8).transformed(np.eye(3), MIDDLE, 0.15)
    nose = ball.transformed(np.eye(3), 0.7 * MIDDLE + np.array([0, 0, 0.08]), 0.3)
    both = Mesh(
        np.concatenate([ball.vertices, nose.vertices]),
        np.concatenate([ball.triangles, nose.triangles + len(ball.vertices)]),
    )
    front, turned = (portrait(both, EmbreeRasterizer(), 96, yaw) for yaw in (0, 60))
    dark = [np.nonzero((picture[..., 0] < 255).any(axis=0))[0] for picture in (front, turned)]
    assert dark[0][0] + dark[0][-1] == pytest.approx(95, abs=2)
    assert dark[1][-1] - 47.5 > 47.5 - dark[1][0] + 3


def test_sheet_fills_the_last_row_with_white():
    pictures = [np.zeros((4, 5, 3), np.uint8)] * 3
    out = sheet(pictures, 2)
    assert out.shape == (8, 10, 3) and (out[4:, 5:] == 255).all()
