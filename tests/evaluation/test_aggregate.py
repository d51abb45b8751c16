"""Averages, the result document, metrics that fail, sharpness and baselines."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from davatar.core import plugins
from davatar.core.errors import DataError, MissingError, UsageError
from davatar.evaluation.aggregate import FramePair, average, read_result, result_document, score_clip
from davatar.evaluation.baselines import Stance, mean_image, nearest
from davatar.evaluation.mask import grown
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


class Seen(Frames):
    """Keeps what it was given."""

    def __call__(self, prediction, target, mask=None):
        self.given = [None if x is None else x.clone() for x in (prediction, target, mask)]
        return len(prediction)


def test_clip_metric_sees_all_frames():
    covered = np.zeros((24, 24), np.uint8)
    covered[8:16, 8:16] = 255
    frames = [FramePair(noise(k), noise(k + 9), covered) for k in range(5)]
    seen = Seen()
    score = score_clip(iter(frames), MetricSet({"frames": seen}, {}))
    assert {family: values["frames"] for family, values in score.video.items()} == {
        "": 5, "masked": 5, "foreground": 5
    }  # fmt: skip
    prediction, target, mask = seen.given
    assert torch.equal((prediction[3].permute(1, 2, 0) * 255).round().byte(), torch.from_numpy(noise(3)))
    assert torch.equal((target[4].permute(1, 2, 0) * 255).round().byte(), torch.from_numpy(noise(13)))
    assert mask.shape == (5, 24, 24) and mask[0].sum() == 12 * 12


def test_clip_of_one_frame_has_no_video_metric_and_no_flicker():
    score = score_clip([FramePair(noise(0), noise(1))], MetricSet({"frames": Frames()}, {}))
    assert score.video[""] == {"frames": None} and "at least 2 frames" in score.reasons["frames"]
    assert score.flicker == {"flicker": None, "true_change": None}


def test_detector_that_finds_nothing_is_no_number_but_in_the_published_mean():
    class Face(Frames):
        name, scope = "csim", "image"

        def __call__(self, prediction, target, mask=None):
            return -1.0 if prediction[0].mean() > 0.5 else 0.8

    frames = [FramePair(np.full_like(noise(0), value), noise(1)) for value in (10, 250)]
    ours = score_clip(frames, MetricSet({"csim": Face()}, {}))
    assert ours.metrics[""]["csim"] == 0.8 and ours.reasons["csim"] == "found nothing to compare"
    assert score_clip(frames[1:], MetricSet({"csim": Face()}, {}), "published").metrics[""]["csim"] == -1


def test_flicker_is_the_change_of_the_error():
    still, moving = noise(3, 32) // 4 + 60, [noise(k, 32) // 4 + 60 for k in range(4)]
    constant_error = score_clip([FramePair(image + 9, image) for image in moving], MetricSet({}, {}))
    assert constant_error.flicker["flicker"] == 0 < constant_error.flicker["true_change"]
    blinking = [FramePair(still + 5 * (k % 2), still) for k in range(4)]
    assert score_clip(blinking, MetricSet({}, {})).flicker == {"flicker": 5.0, "true_change": 0.0}
    frozen = score_clip([FramePair(still, image) for image in moving], MetricSet({}, {})).flicker
    assert frozen["flicker"] == pytest.approx(frozen["true_change"])


def test_flicker_looks_at_the_head_and_not_across_a_gap():
    head = np.zeros((32, 32), np.uint8)
    head[10:20, 10:20] = 255
    grey = np.full((32, 32, 3), 100, np.uint8)
    outside = grey.copy()
    outside[:5] += 50
    frames = [FramePair(grey, grey + 1, head), FramePair(outside, grey + 1, head)]
    assert score_clip(frames, MetricSet({}, {})).flicker["flicker"] == 0
    gap = FramePair(grey, np.zeros_like(grey), head)
    brighter = FramePair(grey + 9, grey + 1, head)
    assert score_clip([frames[0], gap, brighter], MetricSet({}, {})).flicker["flicker"] is None


def test_published_and_own_results_are_read(shared, tmp_path):
    theirs = read_result(shared / "golden" / "diffusion_avatars" / "F_eval_result.json")
    assert theirs["average_per_sequence_metric"]["paired_image_metrics"]["akd"] == 3.0
    score = score_clip([FramePair(noise(0), noise(1))], MetricSet({"psnr": Psnr()}, {}))
    file = tmp_path / "result.json"
    document = result_document({("1", "s", "c"): score}, {}, "per_image", {})
    file.write_text(json.dumps(document))
    assert read_result(file) == document
    file.write_text(json.dumps(document | {"schema_version": 99}))
    with pytest.raises(DataError, match="schema version 99"):
        read_result(file)
    file.write_text("{}")
    with pytest.raises(DataError, match="no result of an evaluation"):
        read_result(file)


def test_unknown_metric_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'psnr'"):
        open_metrics(["psnrr"])
    with pytest.raises(UsageError, match="did you mean 'lpips'"):
        open_metrics(["lpisp"])


def test_well_known_metric_without_plugin_says_how_to_get_it():
    chosen = open_metrics(["psnr", "lpips"])
    assert list(chosen.metrics) == ["psnr"]
    assert "no plugin for lpips is installed" in chosen.unavailable["lpips"]
    assert "davatar plugins new metric lpips" in chosen.unavailable["lpips"]
    score = score_clip([FramePair(noise(0), noise(1))], chosen)
    document = result_document({("1", "s", "c"): score}, {}, "per_image", {})
    assert document["unavailable"].keys() == {"lpips"}
    assert document["average_per_sequence_metric"]["paired_image_metrics"]["lpips"] is None


def test_builtin_metrics_open_by_name():
    chosen = open_metrics(["psnr", "ssim", "ms-ssim", "mse"])
    assert [metric.name for metric in chosen.metrics.values()] == ["psnr", "ssim", "multi_scale_ssim", "mse"]
    assert not chosen.unavailable


def test_broken_plugin_is_a_reason(monkeypatch):
    def load(group, name):
        raise MissingError("plugin 'mine' does not import: no module named nowhere")

    monkeypatch.setattr(plugins, "load", load)
    monkeypatch.setattr(plugins, "names", lambda group: ["mine"])
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
    mask = torch.zeros(1, 9, 9)
    mask[0, 4, 4] = 0.2
    assert grown(mask).sum() == 25
