"""Evaluating an avatar without one: a stand-in for the data set, a painter that is wrong by a known amount."""

from pathlib import Path

import numpy as np
import pytest

from davatar.checks.avatar_report import chosen_frames, evaluation_section, film, frame_sheet
from davatar.checks.avatar_score import by_clip, learn_baselines, render_missing, score
from davatar.core.errors import DataError
from davatar.dataset.layout import SampleKey
from davatar.dataset.rendering_data import Sample
from davatar.evaluation.aggregate import result_document
from davatar.evaluation.layout import EvaluationFolder
from davatar.evaluation.metric import open_metrics
from davatar.evaluation.report import Report, render_report
from davatar.geometry.camera import Camera

SIZE = 32
TRAIN = [SampleKey(1, "talk", t, "00") for t in range(6)]
TEST = [SampleKey(1, sequence, t, "00") for sequence in ("sing", "laugh") for t in range(3)]


def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    out = np.eye(4)
    out[:3, :3] = 0.25 * np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    out[2, 3] = 1
    return out


class Data:
    """Twice the avatar's size; the head turns by 10 degrees from step to step, and the picture says so."""

    path = Path("nowhere")

    def __init__(self, without_picture=()):
        self.without_picture = without_picture

    def load(self, key):
        rng = np.random.default_rng([key.timestep, 5])
        image = rng.uniform(size=(SIZE // 4, SIZE // 4, 3)).repeat(8, 0).repeat(8, 1).astype(np.float32)
        empty = np.zeros((2 * SIZE, 2 * SIZE), np.float32)
        alpha = empty.copy()
        alpha[16:48, 16:48] = 1
        return Sample(
            key=key, depth=empty, uv=empty, uv_ambient=empty, normals=empty, mask=alpha > 0, coverage=alpha,
            image=None if key in self.without_picture else image, alpha=alpha,
            codes=np.zeros(4), weights=np.zeros(53), head_to_world=turned(10 * key.timestep),
            camera=Camera.pinhole(100, 100, 32, 32, 2 * SIZE, 2 * SIZE),
        )  # fmt: skip


class Painter:
    """The truth, a tenth brighter; counts what it was asked for."""

    def __init__(self, error=0.1, breaks_after=10**6):
        self.error, self.breaks_after, self.painted = error, breaks_after, []

    def __call__(self, samples):
        if len(self.painted) >= self.breaks_after:
            raise KeyboardInterrupt
        self.painted += [sample.key for sample in samples]
        small = [s.image.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)) for s in samples]
        return np.round(np.clip(np.stack(small) + self.error, 0, 1) * 255).astype(np.uint8)


def evaluated(tmp_path, keys=TEST):
    data, folder, clips = Data(), EvaluationFolder(tmp_path), by_clip(keys)
    render_missing(keys, data, Painter(), folder, {"step": 1})
    known = learn_baselines(data, TRAIN)
    own, others = score(clips, data, folder, known, open_metrics(["psnr", "ssim", "ms-ssim"]))
    return data, folder, clips, known, own, others


def test_baselines_stand_beside_the_avatar(tmp_path):
    _, _, _, _, own, others = evaluated(tmp_path)
    document = result_document(own, others, "per_image", {})
    psnr = document["average_per_sequence_metric"]["paired_image_metrics"]["psnr"]
    assert 20 < psnr < 22, "an error of a tenth, less where white clips it"
    baselines = {
        name: part["average_per_sequence_metric"]["paired_image_metrics"]["psnr"]
        for name, part in document["baselines"].items()
    }
    assert baselines["nearest_frame"] == pytest.approx(100), "the same pose was seen in training"
    assert baselines["mean_image"] < psnr
    assert set(document["per_sequence_metrics"]["1"]) == {"sing", "laugh"}


def test_only_missing_frames_are_painted(tmp_path):
    folder, broken = EvaluationFolder(tmp_path), Painter(breaks_after=4)
    with pytest.raises(KeyboardInterrupt):
        render_missing(TEST, Data(), broken, folder, {"step": 1}, at_once=2)
    again = Painter()
    render_missing(TEST, Data(), again, folder, {"step": 1}, at_once=2)
    assert again.painted == TEST[4:]
    other = Painter()
    render_missing(TEST, Data(), other, folder, {"step": 2})
    assert other.painted == TEST, "another checkpoint paints everything again"


def test_killed_evaluation_ends_as_an_uninterrupted_one(tmp_path):
    """The painter's pictures depend on their place in a batch, as a network's last digits do."""

    class Uneven(Painter):
        def __call__(self, samples):
            return super().__call__(samples) + np.arange(len(samples), dtype=np.uint8)[:, None, None, None]

    def run(home, *painters):
        folder, data = EvaluationFolder(home), Data()
        for painter in painters[:-1]:
            with pytest.raises(KeyboardInterrupt):
                render_missing(TEST, data, painter, folder, {"step": 1}, at_once=4)
        render_missing(TEST, data, painters[-1], folder, {"step": 1}, at_once=4)
        own, others = score(by_clip(TEST), data, folder, learn_baselines(data, TRAIN), open_metrics(["psnr", "ssim"]))
        return result_document(own, others, "per_image", {})

    whole = run(tmp_path / "whole", Uneven())
    torn = tmp_path / "torn"
    first = Uneven(breaks_after=4)
    with pytest.raises(KeyboardInterrupt):
        render_missing(TEST, Data(), first, EvaluationFolder(torn), {"step": 1}, at_once=4)
    EvaluationFolder(torn).path(("1", "sing", "00"), 1, "prediction").unlink()  # killed between two frames of a batch
    assert run(torn, Uneven()) == whole


def test_sample_without_photograph_is_named(tmp_path):
    with pytest.raises(DataError, match="laugh.*no photograph"):
        render_missing(TEST, Data(without_picture=[TEST[4]]), Painter(), EvaluationFolder(tmp_path), {})


def test_report_shows_table_frames_film_and_reasons(tmp_path):
    data, folder, clips, known, own, others = evaluated(tmp_path)
    document = result_document(own, others, "per_image", {})
    sheet = frame_sheet(chosen_frames(own, clips), data, folder, known)
    section = evaluation_section(document, own, others, sheet, command="davatar eval DA-1")
    html = render_report(Report("Evaluation", "", hero=film(clips, folder, 10), sections=(section,)))
    assert document["flicker"]["flicker"] > 0 and document["per_sequence_details"]["1"]["sing"]["00"]["frames"] == 3
    for expected in (
        "sharpness mid",
        "flicker",
        "the truth changes by",
        "mean training image",
        "nearest training frame",
        "100.00 dB",
        "davatar eval DA-1",
        "video/mp4",
    ):
        assert expected in html
    assert "multi_scale_ssim: not available: needs pictures of at least 161 pixels" in html


def test_worst_frame_is_shown_last(tmp_path):
    data, folder, clips, known, own, others = evaluated(tmp_path)
    values = {
        key: value for clip, keys in clips.items() for key, value in zip(keys, own[clip].per_frame["psnr"], strict=True)
    }
    shown = chosen_frames(own, clips)
    assert shown[-1] == min(values, key=values.get)
    assert len(set(shown)) == len(shown)
