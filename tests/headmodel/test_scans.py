"""Sources of scans and what training makes of them: layouts on disk, correspondences, mirror images, draws."""

import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from davatar.core.errors import DataError, MissingError, VerificationError
from davatar.headmodel.folder_scans import FolderScans
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.ict_scans import IctScans
from davatar.headmodel.nphm_scans import ANCHOR_VERTICES, SPELLINGS, NphmScans, hairstyle
from davatar.headmodel.scan_items import ScanItems, mirrored
from davatar.headmodel.scans import SampleCounts, ScanSettings, open_scans
from davatar.testing import check_scans

COUNTS = SampleCounts(face=30, front=10, outer=12, near=9, far=7, correspondences=11)


@pytest.fixture(scope="module")
def ict():
    return IctScans(ScanSettings(source="ict", identities=2, expressions=3))


def test_morphable_scans_are_registered(ict):
    scan = 2
    samples = ict.samples(scan, COUNTS, np.random.default_rng(0))
    assert np.linalg.norm(samples.posed - samples.neutral, axis=1).max() > 1e-3, "an expression moves points"
    away = np.linalg.norm(samples.anchors - MEAN_ANCHORS, axis=1)
    assert np.median(away) < 0.1 and ict.scans[scan].neutral == 0
    assert samples.surface[:30, 2].min() > samples.outer[:, 2].min(), "the face is in front"


def cube(shift=0.0, subdivided=False):
    mesh = trimesh.creation.icosphere(subdivisions=3 if subdivided else 2, radius=0.4)
    return trimesh.Trimesh(mesh.vertices + [0, 0, shift], mesh.faces, process=False)


@pytest.fixture
def meshes(tmp_path):
    for person in ("anna", "bob"):
        (tmp_path / person).mkdir()
        cube().export(tmp_path / person / "neutral.ply")
        cube(0.05).export(tmp_path / person / "aah.obj")
    cube(0.02, subdivided=True).export(tmp_path / "carla.ply")
    return tmp_path


def test_a_folder_of_meshes(meshes):
    source = FolderScans(ScanSettings(source="folder", path=str(meshes)))
    check_scans(source)
    assert source.identities == ("anna", "bob", "carla")
    assert [scan.neutral for scan in source.scans] == [1, 1, 3, 3, 4], "`neutral` is the neutral one"
    moved, rest = (source.samples(k, COUNTS, np.random.default_rng(1)) for k in (0, 1))
    np.testing.assert_allclose(moved.posed - moved.neutral, np.tile([0, 0, 0.05], (11, 1)), atol=1e-5)
    np.testing.assert_allclose(rest.posed, rest.neutral, atol=1e-6)
    other = source.samples(4, COUNTS, np.random.default_rng(1))
    assert other.posed is None and other.anchors is None, "another topology is not registered"


def test_meshes_in_another_unit_are_refused_with_the_mend(meshes):
    (meshes / "anna" / "neutral.ply").unlink()
    trimesh.creation.icosphere(radius=100.0).export(meshes / "anna" / "neutral.ply")
    with pytest.raises(DataError, match=r"data.unit=1, which no head is .*0.004 for mm"):
        FolderScans(ScanSettings(path=str(meshes)))
    (meshes / "anna" / "neutral.ply").write_bytes(b"ply\nhalf a file")
    with pytest.raises(DataError, match="neutral.ply: is not a readable mesh"):
        FolderScans(ScanSettings(path=str(meshes)))
    with pytest.raises(MissingError, match="holds no mesh"):
        FolderScans(ScanSettings(path=str(meshes / "nowhere")))


@pytest.fixture(params=[0, 1], ids=["first spelling", "second spelling"])
def published(request, tmp_path, monkeypatch):
    """Subject 17 with expressions 0 and 3, subject 28 with two hairstyles, 199 of another split; two splits each."""
    monkeypatch.setattr("davatar.headmodel.nphm_scans.FIELD_SPLITS", 1)
    monkeypatch.setattr("davatar.headmodel.nphm_scans.CORRESPONDENCE_SPLITS", 1)
    rng = np.random.default_rng(0)
    template = rng.uniform(-0.5, 0.5, (4000, 3))
    for subject, expressions in {17: (0, 3), 28: (0, 9), 199: (0,)}.items():
        fields = tmp_path / "SUPERVISION_IDENTITY" / f"{subject:03d}"
        fields.mkdir(parents=True)
        for e in expressions:
            scan = tmp_path / "DATA" / f"{subject:03d}" / f"{e:03d}"
            scan.mkdir(parents=True)
            trimesh.Trimesh(template, [[0, 1, 2]], process=False).export(scan / "registration.ply")
            for name, spellings in SPELLINGS.items():
                rows = rng.uniform(-0.4, 0.4, (50, 9)).astype(np.float32)
                rows[:, 3:6] /= np.linalg.norm(rows[:, 3:6], axis=1, keepdims=True)
                rows[::7, 0] = np.nan if name == "near" else rows[::7, 0]
                for r in (0, 99):
                    np.save(fields / spellings[request.param].format(e=e, r=r), rows)
            matched = tmp_path / "SUPERVISION_DEFORMATION_CLOSED" / f"{subject:03d}" / f"{e:03d}"
            matched.mkdir(parents=True)
            half = rng.uniform(-0.4, 0.4, (20, 3))
            np.save(matched / "corresp_0.npy", np.concatenate([half, half + 0.01 * e], axis=1).astype(np.float32))
    (tmp_path / "neutrals_closed.json").write_text(json.dumps({"17": 0, "28": 0, "199": 0}))
    return tmp_path, template


def test_the_published_layout(published):
    folder, template = published
    settings = ScanSettings(path=str(folder))
    source = open_scans(settings)
    check_scans(source)
    assert source.identities == ("17", "28", "10028"), "a second hairstyle is another identity"
    assert [(s.identity, s.neutral, s.supervise_hair) for s in source.scans] == [
        (0, 0, True), (0, 0, False), (1, 2, True), (2, 2, True)
    ]  # fmt: skip
    samples = source.samples(1, COUNTS, np.random.default_rng(0))
    np.testing.assert_allclose(samples.posed - samples.neutral, 0.03, atol=1e-6)
    np.testing.assert_allclose(samples.anchors, template[list(ANCHOR_VERTICES)], atol=1e-6)
    assert samples.near.shape == (9, 3) and np.isfinite(samples.near).all(), "rows with NaN are left out"
    assert open_scans(replace(settings, split="eval")).identities == ("199",)
    with pytest.raises(DataError, match="holds no usable scan"):
        open_scans(replace(settings, split="test"))


def test_what_a_published_data_set_lacks_is_named(published):
    folder, _ = published
    source = NphmScans(ScanSettings(path=str(folder)))
    for path in (folder / "SUPERVISION_IDENTITY" / "017").glob("*off*"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="is no readable set of samples"):
        source.samples(0, COUNTS, np.random.default_rng(0))
    for path in (folder / "SUPERVISION_IDENTITY" / "017").glob("*off*"):
        path.unlink()
    with pytest.raises(DataError, match="017: lacks 0_0_off_surface.npy or off_0_0.npy"):
        source.samples(0, COUNTS, np.random.default_rng(0))
    (folder / "neutrals_closed.json").unlink()
    with pytest.raises(MissingError, match="neutrals_closed.json: .*data.neutrals"):
        NphmScans(ScanSettings(path=str(folder)))
    with pytest.raises(MissingError, match="data.source=ict needs no data set"):
        NphmScans(ScanSettings())


def test_hairstyles_by_their_boundaries():
    assert [hairstyle(28, e) for e in (7, 8, 13, 14)] == [0, 1, 1, 2] and hairstyle(17, 20) == 0


def test_mirror_images(ict):
    samples = ict.samples(0, COUNTS, np.random.default_rng(0))
    flipped = mirrored(samples)
    np.testing.assert_array_equal(flipped.surface[:, 0], -samples.surface[:, 0])
    np.testing.assert_array_equal(flipped.surface_normal[:, 1:], samples.surface_normal[:, 1:])
    np.testing.assert_allclose(flipped.anchors[3], samples.anchors[2] * [-1, 1, 1])
    np.testing.assert_allclose(flipped.anchors[33], samples.anchors[33] * [-1, 1, 1])
    back = mirrored(flipped)
    assert all(np.array_equal(getattr(back, k), v) for k, v in vars(samples).items())


def test_items_depend_on_seed_epoch_and_index_alone(ict):
    items = ScanItems(ict, COUNTS, 5, MEAN_ANCHORS)
    assert (len(items), items.identity_rows, items.expression_rows) == (12, 4, 12)
    once, again, later = items[0, 3], ScanItems(ict, COUNTS, 5, MEAN_ANCHORS)[0, 3], items[1, 3]
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert not np.array_equal(once["surface"], later["surface"])
    assert np.linalg.norm(once["far"], axis=1).max() <= 1 and np.abs(once["regularised"]).max() <= 1.25


def test_an_epoch_sees_every_scan_once_and_goes_on_where_it_was(ict):
    items = ScanItems(ict, COUNTS, 0, MEAN_ANCHORS, neutral_share=0.0)
    assert items.steps_per_epoch(4) == 3
    whole = items.batches(0, 4)
    steps = [next(whole) for _ in range(5)]
    rows = [int(row) for step in steps[:3] for row in step.expression_rows]
    assert sorted(rows) == list(range(12))
    mirrored_rows = {int(i) for s in steps for i, e in zip(s.identity_rows, s.expression_rows, strict=True) if e >= 6}
    assert mirrored_rows == {2, 3}
    late = next(items.batches(4, 4))
    assert (late.points.surface == steps[4].points.surface).all()
    shares = [next(items.batches(0, 2, process=p, processes=2)).expression_rows.tolist() for p in (0, 1)]
    assert shares[0] + shares[1] == rows[:4]


def test_neutral_items_replace_others(ict):
    items = ScanItems(ict, COUNTS, 0, MEAN_ANCHORS, neutral_share=1.0)
    item = items[0, 5]
    assert item["is_neutral"] and item["expression_rows"] == 6 and item["identity_rows"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: replace(s, surface=s.surface.astype(np.float64)), r"surface is float64 \[48, 3\]"),
        (lambda s: replace(s, outer=s.outer[:-1]), r"outer is float32 \[11, 3\]"),
        (lambda s: replace(s, surface_normal=2 * s.surface_normal), "surface_normal is not of length 1"),
        (lambda s: replace(s, near=s.near * np.nan), "near holds values that are not finite"),
        (lambda s: replace(s, posed=None), "posed without neutral"),
        (lambda s: replace(s, posed=s.posed + np.float32(0.1)), "is neutral, and its correspondences move"),
        (lambda s: replace(s, anchors=s.anchors[:7]), "anchors is"),
    ],
)
def test_a_broken_source_is_told_what_is_wrong(ict, change, message):
    class Broken:
        name, identities, scans = ict.name, ict.identities, ict.scans

        def samples(self, scan, counts, rng):
            return change(ict.samples(scan, counts, rng))

    with pytest.raises(VerificationError, match=message):
        check_scans(Broken())
