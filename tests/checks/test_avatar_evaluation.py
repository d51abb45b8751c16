"""`davatar eval` from end to end: a published archive against its own evaluation's files, and bad input."""

import json
import shutil

import numpy as np
import pytest

from davatar.evaluation.pictures import read_picture

EVALUATED = "evaluations/ckpt-20_scheduler-ddpm/valid-hold-out-seq"


@pytest.fixture(scope="module")
def folder(shared):
    pytest.importorskip("transformers", reason="the text encoder needs the extra `sd`")
    return shared / "golden" / "diffusion_avatars"


@pytest.fixture
def words(folder):
    """The command line of the archive's own evaluation."""
    return [
        "eval", folder / "models/diffusion-avatars/DA-3-ID-55", "--data",
        folder / "data/rendering_data/v1.3-ID-55-nphm", "--raw", folder / "data/nersemble", "--base", folder / "base",
    ]  # fmt: skip


def test_published_evaluation_is_reproduced(cli, words, folder, tmp_path):
    found = cli("--json", *words, "--compat", "--metrics", "psnr,ssim,lpips", "--out", tmp_path)
    assert found.code == 0, found.err
    document = json.loads(found.out)
    theirs = folder / "models/diffusion-avatars/DA-3-ID-55" / EVALUATED
    ours = tmp_path / "ckpt-20_scheduler-ddpm/valid-hold-out-seq"
    for file in theirs.rglob("*.png"):
        difference = np.abs(read_picture(ours / file.relative_to(theirs)).astype(int) - read_picture(file))
        assert difference.max() <= (2 if "error" in file.name or "prediction" in file.name else 0), file.name
    crops = [json.loads((place / "crop_config.json").read_text()) for place in (ours, theirs)]
    assert crops[0] == crops[1]
    assert (ours / "055/EXP-3-cheeks+nose/222200037/video_predictions_masked.mp4").is_file()
    result = tmp_path / "eval-result_ckpt-20_scheduler-ddpm_valid-hold-out-seq.json"
    assert document["result"] == str(result) and json.loads(result.read_text())["schema_version"] == 2
    assert document["archive"]["average_per_sequence_metric"]["paired_image_metrics"]["akd"] == 3.0
    assert "no plugin for lpips" in document["unavailable"]["lpips"]
    page = (ours / "report.html").read_text()
    assert "lpips: not available: no plugin for lpips is installed" in page and "mean training image" in page


def test_absent_split_camera_and_photographs_are_named(cli, words, folder, tmp_path):
    found = cli(*words, "--split", "hold-out-person", "--out", tmp_path)
    assert found.code == 3 and "no split 'hold-out-person'" in found.err and "hold-out-sequence" in found.err
    found = cli(*words, "--serials", "123", "--out", tmp_path)
    assert found.code == 3 and "has no camera 123" in found.err and "222200037" in found.err
    found = cli(*words, "--without", "hair", "--out", tmp_path)
    assert found.code == 2 and "neck, torso, background" in found.err
    raw = tmp_path / "nersemble"
    shutil.copytree(folder / "data/nersemble", raw)
    frame = raw / "055/sequences/SEN-04-two_plus_seven/timesteps/frame_00000/images-2x"
    frame.chmod(0o755)
    (frame / "cam_222200037.jpg").unlink()
    words[words.index("--raw") + 1] = raw
    found = cli(*words, "--out", tmp_path)
    assert found.code == 3 and "SEN-04-two_plus_seven, camera 222200037, time step 0 has no photograph" in found.err


def test_flags_of_archives_are_refused_elsewhere(cli, tmp_path, monkeypatch):
    run = tmp_path / "DA-1"
    run.mkdir()
    (run / "config.yaml").write_text("kind: tiny\n")
    found = cli("eval", run, "--raw", tmp_path)
    assert found.code == 2 and "--raw is for published archives" in found.err
