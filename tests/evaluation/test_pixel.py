"""Metrics against the numbers of the published evaluation (golden section F, spec 10.12)."""

import numpy as np
import pytest
import torch

from davatar.checks.verify import avatar_metrics
from davatar.core.errors import DataError
from davatar.evaluation.aggregate import FramePair, score_clip
from davatar.evaluation.metric import MetricSet, measure
from davatar.evaluation.pixel import CEILING_DB, Mse, MsSsim, Psnr, Ssim

TOLERANCE = 2e-5  # relative; float32 sums over 1e5 values in another order
ALL = MetricSet({"psnr": Psnr(), "ssim": Ssim(), "ms_ssim": MsSsim(), "mse": Mse()}, {})


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden" / "diffusion_avatars" / "F_metrics.npz") as archive:
        return {key: archive[key] for key in archive.files}


def clip(golden, name, mask=None):
    pairs = zip(golden[f"{name}_predictions"], golden[f"{name}_targets"], strict=True)
    return [FramePair(prediction, target, mask) for prediction, target in pairs]


def tensors(images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def test_sine_pictures_of_the_specification():
    row, column = np.mgrid[:24, :32]
    phase = np.stack([0.3 * column + 0.2 * row + c for c in range(3)])[None]
    target = torch.tensor(0.5 + 0.4 * np.sin(phase), dtype=torch.float32)
    prediction = torch.tensor(0.5 + 0.4 * np.sin(phase + 0.15), dtype=torch.float32)
    assert Psnr()(prediction, target) == pytest.approx(27.456299, rel=TOLERANCE)
    assert Mse()(prediction, target) == pytest.approx(0.00179626, rel=1e-5)
    assert Ssim()(prediction, target) == pytest.approx(0.97321564, rel=TOLERANCE)


@pytest.mark.parametrize("check", avatar_metrics.CHECKS, ids=lambda check: check.run.__name__.removeprefix("check_"))
def test_golden(shared, check):
    """What `davatar verify` recomputes of section F: values of clips, masked ones, dropped frames, averages, faces."""
    files = [file for file in sorted((shared / "golden/diffusion_avatars").iterdir()) if check.recognises(file)]
    assert files
    assert [one for file in files for one in check.run(file) if not one.holds] == []


def test_small_pictures_have_no_multi_scale_value(golden):
    score = score_clip(clip(golden, "small"), ALL, "published")
    assert score.frames == 19
    assert score.metrics[""]["multi_scale_ssim"] is None
    assert "161 pixels" in score.reasons["multi_scale_ssim"]


def test_frames_without_a_picture_are_dropped(golden):
    frames = clip(golden, "a")
    frames[0] = FramePair(frames[0].prediction, np.zeros_like(frames[0].target))
    frames[2] = FramePair(frames[2].prediction, np.full_like(frames[2].target, 128))
    score = score_clip(frames, ALL, "published")
    assert score.dropped == 2
    with pytest.raises(DataError, match="no frame"):
        score_clip(frames[:1], ALL)


def test_mask_selects_what_counts():
    target = torch.full((1, 3, 32, 32), 0.5)
    prediction = target.clone()
    prediction[..., :16] += 0.1
    half = torch.zeros(1, 32, 32)
    half[..., :16] = 1
    assert Psnr()(prediction, target, half) == pytest.approx(20, abs=1e-3)
    assert Psnr()(prediction, target, 1 - half) == CEILING_DB
    assert Ssim()(prediction, target, 1 - half) > Ssim()(prediction, target, half)
    with pytest.raises(DataError, match="empty"):
        Psnr()(prediction, target, torch.zeros(1, 32, 32))


def test_per_image_mean_is_the_mean_of_the_frames(golden):
    frames = clip(golden, "small")
    score = score_clip(frames, ALL)
    single = [Psnr()(tensors([f.prediction]), tensors([f.target])) for f in frames]
    assert score.per_frame["psnr"] == pytest.approx(single)
    assert score.metrics[""]["psnr"] == pytest.approx(np.mean(single))


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9), "must be equal"),
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), "expected float"),
        (torch.full((1, 3, 8, 8), torch.nan), torch.zeros(1, 3, 8, 8), "non-finite"),
    ],
)
def test_wrong_pictures_are_refused(prediction, target, message):
    with pytest.raises(DataError, match=message):
        measure(Mse(), prediction, target)
