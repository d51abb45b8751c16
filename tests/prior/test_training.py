"""Training on toy populations: what is learnt, what survives a stop, what is refused."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch

from davatar.checks.verify.dphm_prior_training import CHECKS
from davatar.core.errors import ConfigError, DataError, Interrupted
from davatar.core.progress import silent
from davatar.core.run_tracker import tracked_accelerator
from davatar.core.settings import presets, resolve
from davatar.prior import training
from davatar.prior.code_prior import CodePrior
from davatar.prior.code_rows import CodeRows, load_code_rows
from davatar.prior.evaluation import evaluate
from davatar.prior.gaussian import gaussian_of
from davatar.prior.network import NetworkConfig
from davatar.prior.normalization import LinearNormalization
from davatar.prior.population import Population, open_population, table_population
from davatar.prior.settings import DataSettings, PriorSettings
from davatar.prior.training import train_prior

SETTINGS = PriorSettings(
    network=NetworkConfig("mlp", width=16, blocks=1), steps=12, batch=8, log_steps=3, validate_steps=6, save_steps=4,
    timesteps=50, half=False, ema=0.9, ema_every=1,
)  # fmt: skip


def clusters(count, rng):
    """Two corners of a square in two of four coordinates: anything but a Gaussian."""
    side = rng.integers(2, size=(count, 1)) * 2.0 - 1
    return side * np.array([1, 1, 0, 0]) + 0.1 * rng.normal(size=(count, 4)) * np.array([1, 1, 10, 10])


@pytest.fixture
def population():
    plane = LinearNormalization(np.zeros(6), np.eye(4, 6))
    return Population("identity", plane, clusters, clusters, np.zeros(4), np.ones(4), "two corners")


class StopAfter:
    """A progress that stops the training from inside, as a kill or a signal would."""

    def __init__(self, steps, how):
        self.left, self.how = steps, how

    @contextmanager
    def task(self, label, total=None):
        yield self

    def advance(self, n=1, **figures):
        self.left -= n
        if self.left <= 0 and n:
            self.how()

    info = warn = silent.info


def _kill():
    raise MemoryError("killed")


@pytest.mark.parametrize("how", ["killed", "signal"])
def test_a_stopped_run_ends_like_an_uninterrupted_one(population, tmp_path, how):
    whole = train_prior("identity", SETTINGS, tmp_path / "whole", population=population)
    stop = _kill if how == "killed" else lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises((MemoryError, Interrupted)):
        train_prior("identity", SETTINGS, tmp_path / "cut", StopAfter(9, stop), population)
    path = train_prior("identity", SETTINGS, tmp_path / "cut", population=population)
    assert path.read_bytes() == whole.read_bytes()
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    steps = [[json.loads(line)["step"] for line in found] for found in lines]
    assert sorted(set(steps[1])) == sorted(set(steps[0])) and steps[1] == sorted(steps[1])
    sessions = json.loads((tmp_path / "cut" / "manifest.json").read_text())["sessions"]
    assert [session["status"] for session in sessions] == ["failed" if how == "killed" else "interrupted", "done"]


def test_the_scale_of_half_precision_gradients_survives_a_stop(population, tmp_path, monkeypatch):
    scalers = []

    def scaled(*words):
        accelerator = tracked_accelerator(*words)
        scalers.append(torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=5))  # fp16 itself needs a GPU
        accelerator.scaler = scalers[-1]
        return accelerator

    monkeypatch.setattr(training, "tracked_accelerator", scaled)
    train_prior("identity", SETTINGS, tmp_path / "whole", population=population)
    with pytest.raises(MemoryError):
        train_prior("identity", SETTINGS, tmp_path / "cut", StopAfter(9, _kill), population)
    train_prior("identity", SETTINGS, tmp_path / "cut", population=population)
    whole, _, resumed = (scaler.state_dict() for scaler in scalers)
    assert whole["scale"] == 16 and whole["_growth_tracker"] == 2  # twelve steps grew it twice
    assert resumed == whole


def test_other_settings_are_refused_in_the_same_folder(population, tmp_path):
    train_prior("identity", SETTINGS, tmp_path, population=population)
    with pytest.raises(DataError, match="other settings"):
        train_prior("identity", replace(SETTINGS, batch=4), tmp_path, population=population)


def test_damaged_state_is_named(population, tmp_path):
    train_prior("identity", SETTINGS, tmp_path, population=population)
    state = tmp_path / "checkpoints" / "step-000012" / "state.pt"
    state.write_bytes(state.read_bytes()[:300])
    with pytest.raises(DataError, match="step-000012"):
        train_prior("identity", SETTINGS, tmp_path, population=population)


def test_a_trained_prior_beats_the_gaussian(population, tmp_path):
    settings = replace(
        SETTINGS, network=NetworkConfig("mlp", width=48, blocks=2), steps=300, batch=128, learning_rate=5e-3, ema=0.98,
        log_steps=150, validate_steps=300, save_steps=300,
    )  # fmt: skip
    prior = CodePrior.from_pretrained(train_prior("identity", settings, tmp_path, population=population))
    figures = evaluate(prior, population, n=300, steps=25)
    ours, theirs = figures["codes"]["prior"], figures["codes"]["gaussian"]
    assert ours["kernel"] < 0.5 * theirs["kernel"]
    assert ours["precision"] > theirs["precision"] and ours["matching"] < theirs["matching"]
    assert "meshes" not in figures
    near = figures["training_neighbours"]  # endless draws: no nearer to some than to others
    assert near["prior"]["median"] > 0.8 * near["held-out"]["median"]
    losses = figures["loss"]["held-out"]
    assert all(losses[level]["prior"] < losses[level]["gaussian"] for level in ("t15", "t30"))
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_t15" in line and "gaussian_t15" in line for line in logged)


def test_figures_go_to_tensorboard_too_and_a_resumed_run_writes_none_twice(population, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # files of one process and one second are told apart by this count, and read in order up to nine only
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    with pytest.raises(MemoryError):
        train_prior("identity", SETTINGS, tmp_path, StopAfter(9, _kill), population)
    train_prior("identity", SETTINGS, tmp_path, population=population)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [3, 6, 9, 12]
    logged = [
        line["loss"]
        for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
        if "loss" in line
    ]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(logged)
    assert [event.step for event in events.Scalars("validation_t15")] == [6, 12]


def test_unknown_trackers_are_refused(population, tmp_path):
    with pytest.raises(ConfigError, match="tracker 'paper'"):
        train_prior("identity", replace(SETTINGS, trackers=("paper",)), tmp_path, population=population)


def test_open_priors_paint_samples_at_every_checkpoint(tmp_path):
    import cv2

    from davatar.raster.embree import EmbreeRasterizer

    known = CodePrior.from_pretrained("open-expression").normalization
    population = open_population("expression", DataSettings(), normalization=known)
    settings = replace(SETTINGS, steps=4, save_steps=2, validate_steps=4, preview_heads=3)
    train_prior("expression", settings, tmp_path, population=population, rasterizer=EmbreeRasterizer())
    pictures = sorted((tmp_path / "previews").iterdir())
    assert [picture.name for picture in pictures] == ["step-000002.png", "step-000004.png"]
    image = cv2.imread(str(pictures[-1]))
    assert image.shape == (2 * 224, 4 * 224, 3) and 0.1 < (image < 250).mean() < 0.6


@pytest.mark.parametrize("normalization", ["whiten", "range"])
def test_code_tables_are_populations(tmp_path, normalization):
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(60, 3)) @ rng.normal(size=(3, 8))).astype(np.float32)
    np.savez(tmp_path / "codes.npz", codes=table)
    codes = load_code_rows(tmp_path / "codes.npz", "identity")
    population = table_population("identity", codes, DataSettings(normalization=normalization))
    values = population.draw(500, rng)
    mean, covariance = gaussian_of(population)
    found = population.normalization.denormalise(torch.as_tensor(population.normalised(values)))
    distances = np.linalg.norm(found.numpy()[:, None] - table[None], axis=-1).min(axis=1)
    assert distances.max() < 1e-4
    assert population.normalization.size == (3 if normalization == "whiten" else 8)
    held_out = population.normalised(population.held_out(50, rng))
    assert not (np.linalg.norm(held_out[:, None] - population.normalised(values)[None], axis=-1) < 1e-6).any()
    assert len(mean) == len(covariance) == population.normalization.size


def test_useless_code_tables_are_refused(tmp_path):
    with pytest.raises(DataError, match="at least 20 rows"):
        table_population("identity", CodeRows(np.zeros((3, 4))), DataSettings())
    with pytest.raises(DataError, match="not finite, first in row 7"):
        table_population("identity", CodeRows(np.where(np.arange(80).reshape(40, 2) == 15, np.nan, 1)), DataSettings())
    with pytest.raises(DataError, match="the same code"):
        table_population("identity", CodeRows(np.ones((40, 4))), DataSettings())
    codes = np.eye(40)
    with pytest.raises(DataError, match=r"people of shape \[5\] beside 40 codes"):
        table_population("identity", CodeRows(codes, people=np.zeros(5)), DataSettings())
    with pytest.raises(DataError, match="the same person's"):
        table_population("identity", CodeRows(codes, people=np.zeros(40)), DataSettings())
    path = tmp_path / "codes.npz"
    np.savez(path, codes=codes)
    for content in (b"no", path.read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="codes.npz"):
            load_code_rows(path, "identity")


@pytest.mark.parametrize("name", ["codes.csv", "codes.pt", "head.safetensors"])
def test_other_files_are_no_code_tables_and_the_formats_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_text("0.1,0.2\n")
    with pytest.raises(DataError, match=rf"{name}: is no code table of a known format .*\.npz with `codes`"):
        load_code_rows(path, "identity")


def test_a_head_model_without_tables_is_no_code_table():
    path = files("davatar.assets") / "nphm" / "open.safetensors"
    with pytest.raises(DataError, match=r"open.safetensors: is a head model without code tables .*give a \.npy"):
        load_code_rows(str(path), "identity")


def test_diverged_training_stops_with_the_mend(population, tmp_path):
    def nothing(count, rng):
        return np.full((count, 4), np.nan)

    with pytest.raises(DataError, match="nan at step 3.*lower learning_rate"):
        train_prior("identity", SETTINGS, tmp_path, population=replace(population, draw=nothing))


def test_held_out_people_are_unseen_and_rows_are_weighed():
    people = np.repeat(np.arange(20), 5)
    codes = np.stack([people, np.arange(100)], axis=1).astype(np.float32)
    weights = np.where(people == 3, 50.0, 1.0)
    rows = CodeRows(codes, weights, people)
    population = table_population("joint", rows, DataSettings(normalization="range"))
    rng = np.random.default_rng(0)
    seen, unseen = population.draw(2000, rng)[:, 0], population.held_out(2000, rng)[:, 0]
    assert not set(seen) & set(unseen) and len(set(unseen)) == 2
    most = seen if 3 in seen else unseen
    assert (most == 3).mean() > 0.6


def test_published_tables_say_who_made_which_expression(shared, tmp_path):
    folder = shared / "golden" / "dphm" / "published" / "pretrain_models" / "nphm_backward"
    identity, joint = (load_code_rows(folder, kind) for kind in ("identity", "joint"))
    assert identity.weights.tolist() == [4, 3, 4, 2, 4] and len(identity.codes) == 5
    assert joint.people.tolist() == np.repeat(np.arange(5), [4, 3, 4, 2, 4]).tolist()
    expressions = load_code_rows(folder, "expression").codes
    assert np.array_equal(joint.codes[11], np.concatenate([identity.codes[3], expressions[11]]))
    alone = tmp_path / "nphm_backward"
    shutil.copytree(folder, alone)
    (alone / "expression_train_index.json").write_text("[0, 1, 2]")
    with pytest.raises(DataError, match="lists 3 expressions of 1 people, its tables hold 17 and 5"):
        load_code_rows(alone, "joint")
    (alone / "expression_train_index.json").unlink()
    with pytest.raises(DataError, match="which rows belong together"):
        load_code_rows(alone, "joint")
    assert load_code_rows(alone, "identity").weights is None


def test_families_are_no_gaussian_and_held_out_relatives_are_new():
    population = open_population("identity", DataSettings(identities="families"), seed=1)
    rng = np.random.default_rng(0)
    people, relatives = population.draw(300, rng), population.held_out(300, rng)
    assert population.morphable and not population.normal
    apart = np.linalg.norm(people[:, None] - relatives[None], axis=-1)
    assert 3 < np.median(apart.min(axis=1)) < 0.6 * np.median(apart)
    assert np.abs(population.normalised(people).std(axis=0) - 1).max() < 0.3


@pytest.mark.parametrize("name", presets("prior"))
def test_presets_are_valid(name):
    assert resolve(PriorSettings, name, env_prefix="").value.steps > 0


@pytest.mark.parametrize(
    "line", ["batch=0", "seed=-1", "learning_rate=-1", "data.captured=0.9", "network.type=cnn", "stps=3"]
)
def test_senseless_settings_are_refused(line):
    with pytest.raises(ConfigError):
        resolve(PriorSettings, "expression", env_prefix="", sets=[line])


def test_steps_equal_the_published_ones(recomputed, shared):
    recomputed(CHECKS, shared / "golden" / "dphm" / "C_training_steps.npz")
