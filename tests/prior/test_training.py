"""Training on toy populations: what is learnt, what survives a stop, what is refused."""

import json
import os
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from davatar.core.errors import ConfigError, DataError, Interrupted
from davatar.core.progress import silent
from davatar.core.settings import presets, resolve
from davatar.prior.code_prior import CodePrior
from davatar.prior.evaluation import evaluate, gaussian_of, kernel_distance
from davatar.prior.network import NetworkConfig
from davatar.prior.normalization import LinearNormalization
from davatar.prior.population import Population, load_code_table, table_population
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
    assert figures["samples"]["prior"]["mmd"] < 0.5 * figures["samples"]["gaussian"]["mmd"]
    assert figures["samples"]["prior"]["precision"] > figures["samples"]["gaussian"]["precision"]
    losses = figures["loss"]["held-out"]
    assert all(losses[level]["prior"] < losses[level]["gaussian"] for level in ("t15", "t30"))
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_t15" in line and "gaussian_t15" in line for line in logged)


def test_kernel_distance_is_zero_for_one_distribution_and_grows_with_the_shift():
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    one = rng.normal(size=(300, 3))
    found = []
    for shift in (0.0, 0.5, 1.5):
        two = rng.normal(size=(300, 3)) + shift
        found.append(kernel_distance(cdist(one, two), cdist(one, one), cdist(two, two)))
    assert abs(found[0]) < 0.01 < found[1] < found[2]


@pytest.mark.parametrize("normalization", ["whiten", "range"])
def test_code_tables_are_populations(tmp_path, normalization):
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(60, 3)) @ rng.normal(size=(3, 8))).astype(np.float32)
    np.savez(tmp_path / "codes.npz", codes=table)
    codes = load_code_table(tmp_path / "codes.npz", "identity")
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
        table_population("identity", np.zeros((3, 4)), DataSettings())
    (tmp_path / "codes.npz").write_text("no")
    with pytest.raises(DataError, match="codes.npz"):
        load_code_table(tmp_path / "codes.npz", "identity")


@pytest.mark.parametrize("name", presets("prior"))
def test_presets_are_valid(name):
    assert resolve(PriorSettings, name, env_prefix="").value.steps > 0


@pytest.mark.parametrize("line", ["batch=0", "learning_rate=-1", "data.captured=0.9", "network.type=cnn", "stps=3"])
def test_senseless_settings_are_refused(line):
    with pytest.raises(ConfigError):
        resolve(PriorSettings, "expression", env_prefix="", sets=[line])


def test_steps_equal_the_published_ones(shared):
    """Golden C: loss, clipping and Adam over three steps (float32; the independent implementation agreed to 1e-6)."""
    import runpy

    from davatar.diffusion.loss import training_loss
    from davatar.diffusion.schedule import cosine_schedule
    from davatar.prior.normalization import RangeNormalization
    from davatar.prior.training import make_optimiser
    from davatar.prior.unet import UNet1d

    golden = np.load(shared / "golden" / "dphm" / "C_training_steps.npz")
    config = json.loads(bytes(golden["config"]))
    network = UNet1d(config["net"]["dim"], tuple(config["net"]["dim_mults"]))
    recipe = runpy.run_path(str(shared / "golden" / "dphm" / "recipe.py"))
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    weights = recipe["weights"](shapes, config["seed"], config["gain"])
    network.load_state_dict({key: torch.as_tensor(value) for key, value in weights.items()})
    table = torch.as_tensor(golden["table"])
    codes = RangeNormalization(float(table.min()), float(table.max()), 16).normalise(table)
    optimiser = make_optimiser(network, replace(SETTINGS, learning_rate=config["lr"]))
    for step in range(3):
        clean = codes[torch.as_tensor(golden[f"rows{step}"])][:, None]
        t, noise = torch.as_tensor(golden[f"t{step}"]), torch.as_tensor(golden[f"noise{step}"])
        optimiser.zero_grad()
        loss = training_loss(network, cosine_schedule(1000), "v_prediction", clean, t, noise)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config["clip"])
        optimiser.step()
        assert loss.item() == pytest.approx(float(golden["losses"][step]), rel=1e-5)
        assert norm.item() == pytest.approx(float(golden["grad_norms_before_clip"][step]), rel=1e-4)
        for key in (name for name in golden.files if name.startswith(f"step{step + 1}:")):
            found = network.state_dict()[key.split(":")[1]].numpy()
            np.testing.assert_allclose(found, golden[key], atol=2e-6)
