"""Published training as a whole: it learns, a killed run ends as an uninterrupted one, its file is a head model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from davatar.core.errors import ConfigError, DataError, Interrupted
from davatar.core.settings import resolve
from davatar.headmodel import published_training
from davatar.headmodel.head_model import HeadModel
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.nphm import NPHMConfig
from davatar.headmodel.published_losses import WEIGHTS
from davatar.headmodel.published_training import PublishedSettings, plan, train_published
from davatar.headmodel.recipes import settings_class
from davatar.headmodel.scans import Scan, ScanSamples, open_scans
from davatar.headmodel.training import TrainingSettings
from davatar.headmodel.weights import load_tables, load_weights


class Balls:
    """Three people with a ball for a head; the second scan of each is moved."""

    name = "balls"
    identities = ("a", "b", "c")
    scans = tuple(Scan(k // 2, f"scan {k}", k // 2 * 2, supervise_hair=k % 2 == 0) for k in range(6))

    def samples(self, scan, counts, rng):
        def on_ball(count):
            out = rng.standard_normal((count, 3))
            return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)

        size, shift = np.float32(0.3 + 0.02 * (scan // 2)), np.float32([0.03 * (scan % 2), 0, 0])
        surface, outer, near, matched = (
            on_ball(n) for n in (counts.face + counts.front, counts.outer, counts.near, counts.correspondences)
        )
        moved = [size * points + shift for points in (surface, outer, 1.1 * near, matched)]
        anchors = MEAN_ANCHORS.astype(np.float32)
        return ScanSamples(moved[0], surface, moved[1], outer, moved[2], moved[3], size * matched, anchors)


@pytest.fixture(scope="module")
def settings() -> PublishedSettings:
    found = resolve(PublishedSettings, "published-tiny", env_prefix="", component="nphm").value
    return replace(found, preview_heads=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings):
    torch.set_num_threads(1)
    return train_published(settings, tmp_path_factory.mktemp("published"), source=Balls())


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_explains_itself(whole, settings):
    found = lines(whole.parent)
    assert [line["step"] for line in found] == [2, 4, 6, 8, 10, 12]
    assert all(np.isfinite(line["loss"]) for line in found) and found[-1]["loss"] < found[0]["loss"]
    assert set(WEIGHTS) < set(found[0]), "every loss by its published name"
    pictures = sorted(path.name for path in (whole.parent / "previews").iterdir())
    assert pictures == ["step-000003.png", "step-000006.png", "step-000012.png"]
    assert any((whole.parent / "tensorboard").glob("events*"))
    steps = sorted(path.name for path in (whole.parent / "checkpoints").glob("step-*"))
    assert steps == ["step-000003", "step-000006", "step-000012"], "states between kept epochs go"
    assert resolve(PublishedSettings, config_file=whole.parent / "config.yaml", env_prefix="").value == settings


def test_the_file_is_a_head_model_with_its_code_tables(whole, settings):
    model = HeadModel.from_pretrained(whole)
    tables = load_tables(whole)
    assert tables["identity"].shape == (6, 8 + 40 * 4) and tables["expression"].shape == (12, 6)
    assert (tables["identity"].norm(dim=1) > 0).any(), "codes have moved"
    values = model.sdf(torch.zeros(1, 3), tables["identity"][0], tables["expression"][1])
    assert torch.isfinite(values).all()
    assert "scans of source `balls`" in str(model.describe())
    assert json.loads(load_weights(whole)[2]["training"])["data"]["identities"] == 3


@pytest.mark.parametrize("at", [1, 7])
def test_a_run_killed_at_any_step_ends_as_one_that_was_not(whole, settings, tmp_path, monkeypatch, at):
    real, taken = published_training._Trainer.train_step, iter(range(100))

    def dies(self, batch):
        if next(taken) == at:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(published_training._Trainer, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train_published(settings, tmp_path, source=Balls())
    monkeypatch.undo()
    again = train_published(settings, tmp_path, source=Balls())
    assert load_weights(again)[2]["hash"] == load_weights(whole)[2]["hash"]
    assert lines(tmp_path) == lines(whole.parent)


def test_a_stopped_run_saves_where_it_is(whole, settings, tmp_path, monkeypatch):
    real, taken = published_training._Trainer.train_step, iter(range(100))

    def asked_to_stop(self, batch):
        figures = real(self, batch)
        if next(taken) == 4:
            import signal

            signal.raise_signal(signal.SIGTERM)
        return figures

    monkeypatch.setattr(published_training._Trainer, "train_step", asked_to_stop)
    with pytest.raises(Interrupted):
        train_published(settings, tmp_path, source=Balls())
    monkeypatch.undo()
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-000005\n"
    with pytest.raises(DataError, match="other settings"):
        train_published(replace(settings, seed=9), tmp_path, source=Balls())
    (tmp_path / "checkpoints" / "step-000005" / "state.pt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(DataError, match="not a readable training state"):
        train_published(settings, tmp_path, source=Balls())


def test_a_loss_that_is_no_number_stops_the_run(settings, tmp_path):
    class Spoiled(Balls):
        def samples(self, scan, counts, rng):
            return replace(super().samples(scan, counts, rng), surface=np.full((32, 3), np.nan, np.float32))

    with pytest.raises(DataError, match="the loss is nan at step .*lower the rates"):
        train_published(settings, tmp_path, source=Spoiled())


def test_the_published_preset_is_the_default():
    found = resolve(PublishedSettings, "published", env_prefix="", component="nphm").value
    assert replace(found, workers=0) == PublishedSettings()
    assert (found.model, found.batch, found.epochs) == (NPHMConfig(), 32, 6000)


def test_which_recipe_is_meant(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("recipe: published\nepochs: 3\n")
    assert settings_class("published", None) is settings_class(None, own) is PublishedSettings
    assert settings_class(None, None, ["recipe = published"]) is PublishedSettings
    assert settings_class("open", None) is settings_class("no such", None) is settings_class(None, None)
    assert settings_class("open", None) is TrainingSettings


def test_settings_say_what_cannot_be():
    with pytest.raises(ConfigError, match="no loss is called .*there are surf_sdf"):
        PublishedSettings(weights={"surface": 1.0})
    with pytest.raises(ConfigError, match="batch is 1"):
        PublishedSettings(batch=1)


def test_a_plan_counts_before_anything_is_trained(settings):
    figures = plan(settings)
    assert (figures["scans"], figures["steps_per_epoch"], figures["steps"]) == (6, 3, 12)
    assert len(open_scans(settings.data).scans) == 6


def test_from_the_command_line(cli, own_places):
    words = ["prior", "train", "nphm", "--preset", "published-tiny", "--set", "epochs=1", "--set", "preview_heads=0"]
    planned = cli(*words, "--dry-run", "--json")
    assert planned.code == 0 and json.loads(planned.out)["steps"] == 3
    done = cli(*words, "--set", "data.source=ict", "--set", "data.identities=2", "--json")
    assert done.code == 0, done.err
    run = json.loads(done.out)
    assert run["run"] == "NPHM-1" and run["weights"].endswith("model.safetensors")
    resumed = cli("prior", "train", "nphm", "--resume", "NPHM-1")
    assert resumed.code == 0, resumed.err
    missing = cli("prior", "train", "nphm", "--preset", "published")
    assert missing.code == 4 and "data.source=ict needs no data set" in missing.err
