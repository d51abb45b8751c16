"""Averages, the result document, metrics that fail, sharpness and baselines."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from davatar.core import plugins
from davatar.core.errors import DataError, MissingError, UsageError
from davatar.evaluation.aggregate import FramePair, average, result_document, score_clip
from davatar.evaluation.baselines import Stance, mean_image, nearest
from davatar.evaluation.metric import MetricSet, open_metrics
from davatar.evaluation.pixel import Mse, Psnr
from davatar.evaluation.spectrum import sharpness


def noise(seed, size=24):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


class Absent:
    name, higher_is_better = "absent", True

    def __call__(self, prediction, target, mask=None):
        raise MissingError("weights are not here", mend="download them")


class Frames:
    """A metric of whole clips."""

    name, higher_is_better, scope = "frames", True, "clip"

    def __call__(self, prediction, target, mask=None):
        return len(prediction)


def test_result_has_published_keys(shared):
    with open(shared / "golden" / "diffusion_avatars" / "F_eval_result.json") as file:
        published = json.load(file)
    frame = FramePair(noise(0), noise(1), np.full((24, 24), 255, np.uint8))
    score = score_clip([frame], MetricSet({"psnr": Psnr(), "mse": Mse()}, {}))
    ours = result_document({("55", "SEN-04-two_plus_seven", "222200037"): score}, {}, "per_image", {})
    assert published.keys() <= ours.keys()
    entry = published["per_sequence_metrics"]["55"]["SEN-04-two_plus_seven"]["222200037"]
    mine = ours["per_sequence_metrics"]["55"]["SEN-04-two_plus_seven"]["222200037"]
    assert {part: set(entry[part]) for part in entry} == {part: set(mine[part]) for part in entry}


def test_average_over_clips_is_the_published_one(shared):
    with open(shared / "golden" / "diffusion_avatars" / "F_eval_result.json") as file:
        published = json.load(file)
    clips = [
        metrics["paired_image_metrics"]
        for sequences in published["per_sequence_metrics"].values()
        for serials in sequences.values()
        for metrics in serials.values()
    ]
    expected = published["average_per_sequence_metric"]["paired_image_metrics"]
    known = {name: value for name, value in expected.items() if value is not None}
    ours = average(clips)
    assert {name: ours[name] for name in known} == pytest.approx(known, rel=1e-7)
    assert ours["aed"] is None and ours["apd"] is None


def test_a_failing_metric_leaves_a_reason_and_the_others():
    chosen = MetricSet({"mse": Mse(), "absent": Absent()}, {"broken": "ImportError: no module"})
    score = score_clip([FramePair(noise(0), noise(1))], chosen)
    document = result_document({("1", "s", "c"): score}, {}, "per_image", {})
    assert document["average_per_sequence_metric"]["paired_image_metrics"]["absent"] is None
    assert document["average_per_sequence_metric"]["paired_image_metrics"]["mse"] > 0
    assert document["unavailable"] == {
        "broken": "ImportError: no module",
        "absent": "weights are not here (download them)",
    }
    json.dumps(document, allow_nan=False)


def test_clip_metric_sees_all_frames():
    frames = [FramePair(noise(k), noise(k + 9)) for k in range(5)]
    score = score_clip(frames, MetricSet({"frames": Frames()}, {}))
    assert score.video[""] == {"frames": 5}


def test_unknown_metric_names_the_nearest():
    with pytest.raises(UsageError, match="'psnr'"):
        open_metrics(["psnrr"])


def test_builtin_metrics_open_by_name():
    chosen = open_metrics(["psnr", "ssim", "ms-ssim", "mse"])
    assert [metric.name for metric in chosen.metrics.values()] == ["psnr", "ssim", "multi_scale_ssim", "mse"]
    assert not chosen.unavailable


def test_broken_plugin_is_a_reason(monkeypatch):
    def load(group, name):
        raise MissingError("plugin 'mine' does not import: no module named nowhere")

    monkeypatch.setattr(plugins, "load", load)
    assert open_metrics(["mine"]) == MetricSet({}, {"mine": "plugin 'mine' does not import: no module named nowhere"})


def test_blur_lowers_sharpness_and_noise_raises_it():
    sharp = noise(0, 64) / 255.0
    blurred = (sharp + np.roll(sharp, 1, 0) + np.roll(sharp, 1, 1) + np.roll(sharp, (1, 1), (0, 1))) / 4
    assert sharpness(sharp, sharp) == pytest.approx({"sharpness_mid": 1, "sharpness_high": 1})
    assert sharpness(blurred, sharp)["sharpness_high"] < sharpness(blurred, sharp)["sharpness_mid"] < 1
    assert sharpness(sharp, blurred)["sharpness_high"] > 1


def test_mean_image_streams_and_checks_sizes():
    images = [noise(k).astype(np.float32) for k in range(4)]
    assert np.allclose(mean_image(iter(images)), np.mean(images, axis=0))
    with pytest.raises(DataError, match="24x24"):
        mean_image([noise(0), noise(0, 30)])
    with pytest.raises(DataError, match="no training picture"):
        mean_image([])


def rotations(angles):
    c, s = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    return np.stack([np.array([[x, 0, y], [0, 1, 0], [-y, 0, x]]) for x, y in zip(c, s, strict=True)])


def test_nearest_weighs_eight_degrees_like_one_expression_unit():
    training = Stance(rotations([0, 7, 30]), np.array([[0.0, 0], [1, 0], [0, 0]]))
    query = Stance(rotations([7, 29, 0]), np.array([[0.0, 0], [0.5, 0], [0.1, 0]]))
    assert nearest(training, query).tolist() == [0, 2, 0]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(0, 2**16))
def test_nearest_of_a_training_frame_is_itself(count, seed):
    rng = np.random.default_rng(seed)
    own = Stance(rotations(rng.uniform(-60, 60, count)), rng.normal(size=(count, 3)))
    assert nearest(own, own).tolist() == list(range(count))


def test_larger_mask_only_adds_pixels():
    from davatar.evaluation.aggregate import grown

    mask = torch.zeros(1, 9, 9)
    mask[0, 4, 4] = 0.2
    assert grown(mask).sum() == 25
