"""The folder of an evaluation: the published names and pictures, and resuming."""

import numpy as np
import pytest

from davatar.core.errors import DataError
from davatar.evaluation.aggregate import FramePair, score_clip
from davatar.evaluation.layout import EvaluationFolder
from davatar.evaluation.metric import MetricSet
from davatar.evaluation.pictures import read_picture
from davatar.evaluation.pixel import Psnr

CLIP = ("55", "EXP-3-cheeks+nose", "222200037")


@pytest.fixture
def published(shared):
    archive = shared / "golden" / "diffusion_avatars" / "models" / "diffusion-avatars" / "DA-3-ID-55"
    return EvaluationFolder(archive / "evaluations" / "ckpt-20_scheduler-ddpm" / "valid-hold-out-seq")


def test_published_evaluation_reads_as_ours(published):
    assert published.timesteps(CLIP) == [0, 3]
    score = score_clip(published.pairs(CLIP), MetricSet({"psnr": Psnr()}, {}))
    assert score.frames == 2 and 0 < score.metrics["masked"]["psnr"] < 100


def test_saved_frame_has_published_files_and_pictures(published, tmp_path):
    ours = EvaluationFolder(tmp_path)
    ours.save(CLIP, 3, published.load(CLIP, 3))
    names = {path.name for path in published.clip_folder(CLIP).glob("frame_00003_*.png")}
    assert {path.name for path in ours.clip_folder(CLIP).iterdir()} == names
    for name in names:
        expected = read_picture(published.clip_folder(CLIP) / name).astype(int)
        assert np.abs(read_picture(ours.clip_folder(CLIP) / name) - expected).max() <= 1, name


def test_frame_without_prediction_is_not_done(tmp_path):
    folder = EvaluationFolder(tmp_path)
    image = np.zeros((8, 8, 3), np.uint8)
    folder.save(CLIP, 0, FramePair(image, image + 9))
    folder.save(CLIP, 1, FramePair(image, image + 9))
    folder.path(CLIP, 1, "prediction").unlink()
    assert folder.has(CLIP, 0) and not folder.has(CLIP, 1)
    assert folder.timesteps(CLIP) == [0]


def test_truncated_picture_is_named(tmp_path):
    folder = EvaluationFolder(tmp_path)
    image = np.zeros((8, 8, 3), np.uint8)
    folder.save(CLIP, 0, FramePair(image, image + 9))
    target = folder.path(CLIP, 0, "target")
    target.write_bytes(target.read_bytes()[:30])
    with pytest.raises(DataError, match="frame_00000_target.png"):
        list(folder.pairs(CLIP))
