import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from davatar.avatar.checkpoints import AVERAGE, WEIGHTS
from davatar.avatar.model import new_avatar, open_avatar
from davatar.avatar.probes import probes
from davatar.avatar.reading import ReadAhead
from davatar.avatar.settings import AvatarSettings, Budget
from davatar.avatar.trainer import Trainer
from davatar.avatar.training import _plain, fit, less_memory, used
from davatar.avatar.training_log import by_level
from davatar.avatar.weights import read_weights
from davatar.core.errors import ConfigError, DataError, Interrupted, MissingError, ResourceError, UsageError
from davatar.core.lock import exclusive
from davatar.core.progress import silent
from davatar.core.runs import Run
from davatar.core.settings import resolve


def train(folder, small, balls, progress=silent, **changes):
    settings = replace(small, **changes)
    run = Run(folder)
    folder.mkdir(exist_ok=True)
    run.write_config(_plain(settings))
    fit(new_avatar(settings), balls[:4], balls[4:], run, settings, progress)
    return run


@pytest.fixture(scope="module")
def once(tmp_path_factory, small, balls):
    """Eight steps, with checkpoints of the sixth and the eighth."""
    return train(tmp_path_factory.mktemp("once") / "run", small, balls)


@pytest.fixture
def trained(once, tmp_path):
    """A copy that a test may spoil."""
    return Run(Path(shutil.copytree(once.folder, tmp_path / "run")))


class Told:
    """A progress that keeps the warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)

    def info(self, message):
        pass

    def task(self, label, total=None):
        return silent.task(label, total)


def test_the_defaults_are_the_measured_preset():
    assert resolve(AvatarSettings, "tiny", environ={}).value == AvatarSettings()


def weights(run, file=WEIGHTS):
    step, folder = run.latest_checkpoint()
    return step, read_weights(folder / file, "davatar tiny avatar")[0]


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], atol=0, rtol=0)


def stopped_at(patch, last):
    """Kill a training when step `last` begins."""
    step = Trainer.step

    def until(self, number, done, stop=False):
        if number == last:
            raise KeyboardInterrupt
        return step(self, number, done, stop)

    patch.setattr(Trainer, "step", until)


@pytest.mark.parametrize("changes", [{}, {"precision": "float16", "average": 0.9, "accumulation": 2}])
def test_a_stopped_training_ends_with_the_same_weights(tmp_path, small, balls, monkeypatch, changes):
    whole = train(tmp_path / "whole", small, balls, **changes)
    halves = tmp_path / "halves"
    with monkeypatch.context() as patch:
        stopped_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(halves, small, balls, **changes)
    assert Run(halves).latest_checkpoint()[0] == 3  # the steps since are done again
    resumed = train(halves, small, balls, **changes)
    (step, expected), (other, found) = weights(whole), weights(resumed)
    assert step == other == 8
    same(expected, found)
    if changes:
        same(*(weights(run, AVERAGE)[1] for run in (whole, resumed)))
    assert [line["step"] for line in resumed.metrics()] == [2, 4, 6, 8]
    assert resumed.metrics()[2]["loss"] == whole.metrics()[2]["loss"]  # the line before lost a step to the kill


def test_a_signal_saves_the_step_it_came_in(tmp_path, small, balls, monkeypatch):
    step = Trainer.step

    def signalled(self, number, done, stop=False):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, done, stop)

    monkeypatch.setattr(Trainer, "step", signalled)
    with pytest.raises(Interrupted, match="--resume run") as stopped:
        train(tmp_path / "run", small, balls)
    assert Run(tmp_path / "run").latest_checkpoint()[0] == 2 and stopped.value.exit_code == 130


def test_a_signal_to_another_process_stops_this_one_at_the_same_step(tmp_path, small, balls, monkeypatch):
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, *a: replace(step(self, *a), stop=True))
    with pytest.raises(Interrupted):
        train(tmp_path / "run", small, balls)
    assert Run(tmp_path / "run").latest_checkpoint()[0] == 1


def test_accumulated_batches_learn_what_one_large_batch_does(tmp_path, small, balls):
    large = train(tmp_path / "large", small, balls, batch=4)
    parts = train(tmp_path / "parts", small, balls, batch=1, accumulation=4)
    for one, other in zip(large.metrics(), parts.metrics(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_the_average_of_the_weights_is_what_paints(tmp_path, small, balls):
    run = train(tmp_path / "run", small, balls, average=0.5)
    avatar, _, _ = open_avatar(run)
    same(weights(run, AVERAGE)[1], avatar.trained_state())
    own = weights(run)[1]["network.colour.weight"]
    assert not torch.equal(own, avatar.network.colour.weight)


def test_losses_are_told_by_noise_level():
    found = by_level(np.array([1.0, 3.0, 5.0, 7.0]), np.array([0.1, 0.2, 0.8, 1.0]))
    assert found == {"loss/noise_0-25": 2.0, "loss/noise_75-100": 5.0, "loss/noise_100": 7.0}


def test_probes_see_what_the_network_uses(small, balls):
    avatar = new_avatar(small)
    avatar.prepare(balls)
    for parameter in avatar.network.points.expression.parameters():
        torch.nn.init.zeros_(parameter)
    for reader in (avatar.network.unet.read1, avatar.network.unet.read2):
        torch.nn.init.zeros_(reader.out.weight)
    blind = probes(avatar, balls)
    assert blind["probe/expression"] == blind["probe/expression_zeroed"] == 0
    assert abs(blind["probe/geometry"]) > 0
    assert probes(avatar, balls[:1]).keys() == {"probe/expression_zeroed"}  # nothing to take a condition from


def test_trackers_get_what_the_log_gets(tmp_path, small, balls):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard`")
    run = train(tmp_path / "run", small, balls, trackers=("tensorboard",))
    assert list((run.folder / "tensorboard").rglob("events.*"))


def test_an_absent_tracker_is_missing(tmp_path, small, balls, monkeypatch):
    monkeypatch.setattr("davatar.avatar.training_log.is_wandb_available", lambda: False)
    with pytest.raises(MissingError, match="tracker wandb is not installed"):
        train(tmp_path / "run", small, balls, trackers=("wandb",))
    with pytest.raises(ConfigError, match="'wanda'.*tensorboard, wandb"):
        replace(small, trackers=("wanda",))


def test_a_run_keeps_few_checkpoints_its_log_and_previews(tmp_path, small, balls):
    run = train(tmp_path / "run", small, balls, keep_checkpoints=1)
    assert list(run.checkpoints()) == [8]
    assert sorted(p.name for p in (run.folder / "previews").iterdir()) == ["step-000004.png", "step-000008.png"]
    last = run.metrics()[-1]
    assert {"loss", "seconds", "gradient_norm", "preview_psnr", "expression_swapped_db"} <= last.keys()
    assert {"probe/expression", "probe/expression_zeroed", "probe/geometry"} <= last.keys()


def test_an_opened_avatar_paints_what_the_trained_one_does(once, small, balls):
    avatar, settings, step = open_avatar(once)
    assert step == 8 and settings.tiny == small.tiny
    trained = new_avatar(settings)
    trained.load_trained(weights(once)[1], once.folder)
    noise = avatar.noise(np.random.default_rng(0))
    one, two = (a.eval().render(a.batch(balls[:1]), noise) for a in (avatar, trained))
    torch.testing.assert_close(one, two, atol=0, rtol=0)


def test_a_budget_of_seconds_ends_the_training(tmp_path, small, balls):
    run = train(tmp_path / "run", small, balls, budget=Budget(seconds=0.2, clock="cpu"))
    assert run.metrics()[-1]["seconds"] >= 0.2 and used(Budget(seconds=2.0), 0, 1.0) == 0.5


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"seconds": -1.0}, {"steps": 3, "seconds": 2.0}])
def test_budgets_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match="budget"):
        Budget(**wrong)


def test_frames_without_pictures_are_refused(tmp_path, small, balls):
    with pytest.raises(DataError, match="ball/0 has no picture.*colour"):
        train(tmp_path / "run", small, [replace(maps, image=None) for maps in balls])


def test_resuming_with_another_seed_is_refused(trained, small, balls):
    with pytest.raises(UsageError, match="seed 3"):
        train(trained.folder, small, balls, seed=4)


def test_a_run_that_is_being_trained_is_left_alone(tmp_path, small, balls):
    """Locks belong to open files, so this process stands for both."""
    with exclusive(tmp_path / "run"), pytest.raises(UsageError, match="another davatar process is writing there"):
        train(tmp_path / "run", small, balls)
    assert Run(tmp_path / "run").checkpoints() == {}


def test_a_checkpoint_of_other_sizes_is_named(trained, small):
    trained.write_config(_plain(replace(small, tiny=replace(small.tiny, plane_size=8))))
    with pytest.raises(DataError, match=r"model.safetensors.*plane_size 16 instead of 8"):
        open_avatar(trained)


@pytest.mark.parametrize("file", ["optimizers.pt", "model.safetensors", "position.json"])
def test_a_torn_checkpoint_is_named_and_passed_over(once, trained, small, balls, file):
    assert list(trained.checkpoints()) == [6, 8]
    torn = trained.checkpoints()[8] / file
    torn.write_bytes(torn.read_bytes()[:20])
    told = Told()
    resumed = train(trained.folder, small, balls, told)
    (warning,) = told.warnings
    assert str(torn) in warning and "going on from step 6" in warning
    same(weights(once)[1], weights(resumed)[1])
    assert [line["step"] for line in resumed.metrics()] == [2, 4, 6, 8]


def test_a_run_without_a_whole_checkpoint_is_refused(trained, small, balls):
    for folder in trained.checkpoints().values():
        file = folder / "optimizers.pt"
        file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match="step-000008/optimizers.pt.*delete"):
        train(trained.folder, small, balls, budget=Budget(steps=12))


def test_painting_from_a_torn_checkpoint_names_the_others(trained):
    file = trained.checkpoints()[8] / WEIGHTS
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=f"{WEIGHTS}.*choose another checkpoint: 6"):
        open_avatar(trained)
    assert open_avatar(trained, 6)[2] == 6


def test_going_on_with_other_sizes_is_refused(trained, small, balls):
    with pytest.raises(DataError, match=r"model.safetensors.*plane_size 16 instead of 8"):
        train(trained.folder, small, balls, tiny=replace(small.tiny, plane_size=8))


def test_frames_per_step_may_be_cut_anew_but_not_changed(trained, small, balls):
    longer = Budget(steps=9)
    with pytest.raises(UsageError, match="2 frames per step, asked for 4"):
        train(trained.folder, small, balls, batch=4, budget=longer)
    run = train(trained.folder, small, balls, batch=1, accumulation=2, budget=longer)
    assert run.latest_checkpoint()[0] == 9


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_says_which_flag_lowers_it(tmp_path, small, balls, monkeypatch, error):
    step = Trainer.step

    def heavy(self, number, done, stop=False):
        if number == 4:
            raise error
        return step(self, number, done, stop)

    monkeypatch.setattr(Trainer, "step", heavy)
    with pytest.raises(ResourceError, match="2 frames of 32 pixels.*step 3.*--batch 1 --accumulation 2") as raised:
        train(tmp_path / "run", small, balls)
    assert raised.value.exit_code == 6
    assert "gradient_checkpointing" in less_memory(Run(tmp_path), replace(small, kind="published", batch=1))


def test_other_errors_stay_what_they_are(tmp_path, small, balls, monkeypatch):
    def wrong(self, number, done, stop=False):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Trainer, "step", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(tmp_path / "run", small, balls)


def test_a_run_without_a_checkpoint_says_so(tmp_path, small):
    run = Run(tmp_path)
    run.write_config(_plain(small))
    with pytest.raises(MissingError, match="no checkpoint.*train it first"):
        open_avatar(run)


def test_presets_fit_the_settings():
    from davatar.core.settings import presets, resolve

    found = {name: resolve(AvatarSettings, name).value for name in presets("avatar")}
    assert found["tiny"].kind == "tiny" and found["tiny"].start == "base"
    assert {name: found[name].published.resolution for name in ("small", "sd21")} == {"small": 256, "sd21": 512}
    with pytest.raises(ConfigError, match="did you mean 'tiny.tokens'"):
        resolve(AvatarSettings, "tiny", sets=["tiny.tokenz=3"])


def test_frames_that_are_read_ahead_teach_the_same(once, tmp_path, small, balls):
    read = []

    def disk(index):
        read.append(index)
        return balls[index]

    ahead = ReadAhead(disk, 4)
    run = Run(tmp_path / "run")
    fit(new_avatar(small), ahead, balls[4:], run, small)
    ahead.close()
    same(weights(once)[1], weights(run)[1])
    assert len(read) >= 16  # every frame of every step: none is kept


def test_a_frame_that_cannot_be_read_ahead_is_named():
    def broken(index):
        raise DataError("is truncated", file=f"{index}.png")

    ahead = ReadAhead(broken, 2)
    ahead.expect([0, 1])
    with pytest.raises(DataError, match="1.png: is truncated"):
        ahead[1]
    ahead.close()
