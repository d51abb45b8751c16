import numpy as np
import pytest
import torch

from davatar.avatar.model import new_avatar
from davatar.avatar.previews import paint, truth
from davatar.avatar.rendering import painted
from davatar.avatar.tiny import TinyAvatar, TinyTraining
from davatar.avatar.tiny_network import TinySettings
from davatar.avatar.weights import save_weights
from davatar.core.errors import DataError, MissingError


@pytest.fixture
def avatar(small, balls):
    made = new_avatar(small)
    made.prepare(balls)
    return made


def steps(avatar, balls, count):
    (optimizer,) = avatar.optimizers()
    losses = []
    for k in range(count):
        optimizer.zero_grad()
        loss = avatar.train_step(avatar.batch(balls[:4]), np.random.default_rng(k))["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_training_lowers_the_loss(avatar, balls):
    losses = steps(avatar, balls, 40)
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])


def test_before_training_what_the_head_does_not_cover_is_white(avatar, balls):
    picture = paint(avatar, balls[:1])[0]
    np.testing.assert_allclose(picture[balls[0].coverage == 0], 1.0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_a_frame_looks_the_same_in_any_batch_and_every_time(avatar, balls, count):
    steps(avatar, balls, 3)
    together = list(painted(avatar, iter(balls), count, seed=5, at_once=4))
    alone = list(painted(avatar, iter(balls), count, seed=5, at_once=1))
    again = list(painted(avatar, iter(balls), count, seed=5, at_once=4))
    for a, b, c in zip(together, alone, again, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1  # rounding: sums are taken in another order
        np.testing.assert_array_equal(a, c)


def test_the_noise_decides_the_result(avatar, balls):
    steps(avatar, balls, 10)
    one, other = (np.stack(list(painted(avatar, iter(balls[:2]), 3, seed=seed))) for seed in (0, 1))
    assert (one != other).any()


def test_regression_sees_pure_noise_only(small):
    times = TinyAvatar(small.tiny, TinyTraining(regression=True)).draw_times(50, np.random.default_rng(0))
    assert (times == 1).all()


def test_training_times_are_pure_noise_as_often_as_asked(small):
    times = TinyAvatar(small.tiny, TinyTraining(pure_noise=0.4)).draw_times(4000, np.random.default_rng(0))
    assert abs(float((times == 1).float().mean()) - 0.4) < 0.03 and times.min() > 0


def test_the_picture_is_unknown_at_pure_noise(avatar, balls):
    """At t = 1 the loss may not depend on the target through the network's input."""
    rng = [np.random.default_rng(0) for _ in range(2)]
    avatar.training_settings = TinyTraining(regression=True)
    steps(avatar, balls, 5)
    seen = []
    avatar.network.unet.noisy.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].clone()))
    batch = avatar.batch(balls[:1])
    changed = avatar.batch(balls[1:2])
    avatar.train_step(batch, rng[0])
    avatar.train_step(changed, rng[1])
    torch.testing.assert_close(seen[0], seen[1], atol=0, rtol=0)


def test_rate_warms_up_and_falls(avatar):
    assert avatar.rate(0, 0.0) < avatar.rate(30, 0.01)
    assert avatar.rate(1000, 1.0) == pytest.approx(avatar.training_settings.final_rate)


def test_start_of_other_sizes_is_refused(small, tmp_path):
    other = TinyAvatar(TinySettings(**{**vars(small.tiny), "tokens": 2}), TinyTraining())
    path = tmp_path / "other.safetensors"
    save_weights(path, other.trained_state(), other.kind, other.sizes())
    with pytest.raises(DataError, match="other.safetensors.*tokens 2 instead of 4"):
        new_avatar(small).start_from(path)


def test_foreign_weights_and_torn_files_are_refused(small, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.zeros(2)}, "something else", {})
    with pytest.raises(DataError, match="holds something else weights"):
        new_avatar(small).start_from(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="not a readable weights file"):
        new_avatar(small).start_from(path)


def test_absent_start_is_missing(small, tmp_path):
    from dataclasses import replace

    with pytest.raises(MissingError, match="no such weights"):
        new_avatar(replace(small, start=str(tmp_path / "none.safetensors")))


def test_truth_is_what_was_filmed(balls):
    np.testing.assert_array_equal(np.round(truth(balls[:1])[0] * 255), balls[0].image)


def test_the_token_branch_may_learn_at_a_rate_of_its_own(small):
    """Without one there are two groups, as checkpoints have them."""
    plain, own = (TinyAvatar(small.tiny, TinyTraining(token_rate=rate)) for rate in (None, 0.01))
    assert [group["rate"] for group in plain.parameter_groups()] == [2e-3, 2e-2]
    network, planes, tokens = own.parameter_groups()
    assert tokens["rate"] == 0.01 and network["rate"] == 2e-3
    assert len(network["params"]) + len(tokens["params"]) == len(plain.parameter_groups()[0]["params"])
    assert any(one is own.network.tokens.weight for one in tokens["params"])
    assert any(one is own.network.unet.read1.out.weight for one in tokens["params"])
